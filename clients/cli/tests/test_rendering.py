"""Trees, tables and JSON."""

import io
import json

from agentmesh.catalog.v1 import agent_pb2, approval_policy_pb2
from agentmesh.common.v1 import options_pb2, trace_service_pb2, usage_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2
from agentmesh.gateway.v1 import agent_service_pb2
from agentmesh_cli.rendering.agents import print_agent
from agentmesh_cli.rendering.json_output import dump, to_json
from agentmesh_cli.rendering.tables import print_usage
from agentmesh_cli.rendering.tool_text import abridge_arguments
from agentmesh_cli.rendering.trace_tree import build_tree, condense, print_trace
from agentmesh_client import Agent
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

TRACE = "0af7651916cd43dd8448eb211c80319c"


def span(
    span_id: str, parent: str, service: str, name: str, times: tuple[int, int], failed: str = ""
) -> trace_service_pb2.Span:
    """A span between two times in milliseconds."""
    zero = 1_700_000_000_000
    made = trace_service_pb2.Span(
        trace_id=TRACE, span_id=span_id, parent_span_id=parent, name=name, service=service,
        failed=bool(failed), status_message=failed,
    )  # fmt: skip
    made.start_time.FromMilliseconds(zero + times[0])
    made.end_time.FromMilliseconds(zero + times[1])
    return made


STORE = "conversation_store"
SPANS = [
    span("e", "c", "tool_runner", "agentmesh.tool_runner.v1.Tools/CallTool", (60, 160)),
    span("a", "", "gateway", "agentmesh.gateway.v1.Conversations/Start", (0, 20)),
    span("b", "a", STORE, "x.v1.Store/Start", (5, 15)),
    span("c", "a", "agent_runtime", "turn developer", (30, 1230)),
    span("d1", "c", "agent_runtime", "x.v1.Turns/RecordStep", (40, 43)),
    span("d2", "d1", STORE, "x.v1.Turns/RecordStep", (41, 42)),
    span("d3", "c", "agent_runtime", "x.v1.Turns/RecordStep", (50, 54)),
    span("d4", "d3", STORE, "x.v1.Turns/RecordStep", (51, 53)),
    span("f", "c", STORE, "x.v1.Turns/CommitTurn", (170, 180), failed="stale\x1b[2J"),
]


def text(**options: object) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=120, markup=False, highlight=False), file


def test_a_trace_is_a_tree_over_the_services_with_times() -> None:
    console, file = text()
    print_trace(console, TRACE, SPANS, ["tool_runner"])
    assert file.getvalue().splitlines() == [
        f"trace {TRACE}  agent_runtime 3, conversation_store 4, gateway 1, tool_runner 1",
        "     start       took",
        "    0.0 ms    20.0 ms  gateway Conversations/Start",
        "    5.0 ms    10.0 ms  ├ conversation_store Store/Start",
        "   30.0 ms     1.20 s  └ agent_runtime turn developer",
        "   40.0 ms     7.0 ms    ├ agent_runtime > conversation_store Turns/RecordStep x2",
        "   60.0 ms   100.0 ms    ├ tool_runner Tools/CallTool",
        "  170.0 ms    10.0 ms    └ conversation_store Turns/CommitTurn  failed: stale",
        "tool_runner did not answer; its spans are missing",
    ]


def test_every_span_can_be_shown() -> None:
    console, file = text()
    print_trace(console, TRACE, SPANS, every_span=True)
    assert file.getvalue().count("RecordStep") == 4


def test_spans_without_a_known_parent_are_roots_and_doubles_count_once() -> None:
    lost = span("z", "unknown", "gateway", "orphan", (5, 6))
    roots = build_tree([*SPANS, *SPANS, lost])
    assert [root.span.name for root in roots] == [SPANS[1].name, "orphan"]
    assert len(roots[0].children) == 2


def test_what_is_no_call_is_joined_only_if_nothing_is_inside() -> None:
    turns = [span(f"t{at}", "", "r", "turn", (at, at + 5)) for at in (0, 10)]
    step = span("c", "t0", "s", "step", (1, 2))
    assert [node.count for node in condense(build_tree([*turns, step]))] == [1, 1]
    assert [node.count for node in condense(build_tree(turns))] == [2]


def test_all_of_an_agent_is_shown_and_none_of_it_commands_the_terminal() -> None:
    raw = agent_service_pb2.Agent(
        id="poet", name="The \x1b[2Jpoet", role="writes\npoems", version=3, etag="3-a",
        system_message="One.\r\nTwo.\x1b]0;x\x07", tools=["a", "b"], unresolved_tools=["b"],
        llm_config=agent_pb2.LlmConfig(model="gpt-4", temperature=0),
        tool_config={"a": agent_pb2.ToolConfig(enabled=False, timeout=3)},
        human_input_mode=agent_pb2.HUMAN_INPUT_MODE_ALWAYS, handoffs=["critic"],
        context=agent_pb2.ContextPolicy(
            head_and_tail=agent_pb2.HeadAndTailContext(head=0, tail=5)
        ),
        max_tool_iterations=4, component="pkg.Thing",
        approvals=[approval_policy_pb2.ApprovalPolicy(tools=["a*"], role=options_pb2.ROLE_ADMIN)],
    )  # fmt: skip
    raw.llm_config.extra["top_p"] = 1
    raw.output_schema["type"] = "object"
    console, file = text()
    print_agent(console, Agent.of(raw))
    assert [line.rstrip() for line in file.getvalue().splitlines()] == [
        "agent              poet",
        "name               The poet",
        "version            3, of this tenant",
        "written            -",
        "etag               3-a",
        "role               writes poems",
        "model              gpt-4",
        "                   temperature 0.0, extra {'top_p': 1.0}",
        "tools              a, b (missing)",
        "                   a: enabled False, timeout 3.0",
        "handoffs           critic",
        "human input        always",
        "context            head_and_tail: head 0, tail 5",
        "approval for       tools ['a*'], role admin",
        "output schema      {'type': 'object'}",
        "tool iterations    at most 4",
        "component          pkg.Thing {}",
        "system message",
        "  One.",
        "  Two.",
    ]


def test_json_is_what_the_rest_interface_says() -> None:
    run = conversation_pb2.Run(
        run_id="run_1", status=conversation_pb2.RUN_STATUS_DEAD_LETTER, rounds=3,
        usage=usage_pb2.Usage(input_tokens=2**40),
    )  # fmt: skip
    conversation = conversation_pb2.Conversation(
        conversation_id="conv_1",
        status=conversation_pb2.CONVERSATION_STATUS_RUNNING,
        agents=["a", "b"],
        labels={"team": "x"},
        started_at=Timestamp(seconds=1_700_000_000),
        run=run,
    )
    shown = json.loads(dump(to_json(conversation)))
    assert shown["status"] == "running"
    assert shown["agents"] == ["a", "b"]
    assert shown["labels"] == {"team": "x"}
    assert shown["started_at"] == "2023-11-14T22:13:20Z"
    assert shown["run"]["status"] == "dead_letter"
    assert shown["run"]["usage"]["input_tokens"] == 2**40
    assert shown["summary"] == ""
    assert "completed_at" not in shown


def test_json_of_structured_detail_is_the_detail() -> None:
    result = message_pb2.ToolResultPart(tool="code_executor")
    result.detail.update({"exit_code": 1, "files": ["a.py"]})
    shown = json.loads(dump(to_json(message_pb2.Part(tool_result=result))))
    assert shown["tool_result"]["detail"] == {"exit_code": 1, "files": ["a.py"]}


def test_json_shows_unknown_enum_values_and_escapes_controls() -> None:
    event = event_pb2.Event(message=message_pb2.Message(content="\x1b[2J\x9b2J"))
    event.message.role = 99  # type: ignore[assignment]  # from a newer version
    shown = dump(to_json(event))
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    loaded = json.loads(shown)
    assert loaded["message"]["content"] == "\x1b[2J\x9b2J"
    assert loaded["message"]["role"] == "99"


def test_usage_has_a_line_for_each_speaker_and_a_total() -> None:
    console, file = text()
    developer = usage_pb2.Usage(input_tokens=1200, output_tokens=30, model_calls=2, tool_calls=1)
    total = usage_pb2.Usage(input_tokens=1300, sandbox_cpu_ms=250, estimated=True)
    print_usage(console, {"developer": developer}, total)
    lines = file.getvalue().splitlines()
    assert lines[0].split("  ")[0] == "usage"
    assert lines[0].rstrip().endswith("sandbox CPU")
    assert lines[1].split() == ["developer", "1,200", "30", "2", "1", "0", "ms"]
    assert lines[2].split() == ["total", "1,300", "0", "0", "0", "250", "ms"]
    assert "estimated" in lines[3]


def test_arguments_are_abridged_and_broken_ones_shown_as_they_are() -> None:
    assert abridge_arguments('{"n": 3, "ok": true}') == "n=3 ok=true"
    assert abridge_arguments('{"broken": ') == '{"broken":'
    assert abridge_arguments("[1, 2]") == "[1, 2]"
    long = abridge_arguments(json.dumps({"code": "x = 1\n" * 500}))
    assert len(long) <= 160
    assert "(501 lines)" in long
