"""What holds for every provider: one suite, against a real server of each wire format."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from agentmesh_agent_runtime.models.replies import ModelReply
from agentmesh_agent_runtime.turns.failures import (
    EndReason,
    LeaseLost,
    ModelCredentialsRefused,
    ModelFailed,
    ModelRefused,
    TurnFailure,
)
from agentmesh_agent_runtime.turns.ports import DeltaKind, PartKind, ToolOutput, ToolRequest
from agentmesh_agent_runtime.turns.scope import TurnScope

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.real_mesh import RealMesh
from services.agent_runtime.tests.wires import KEY, SERVERS, Wire
from tests.support.model_server import Fault, Reply, ToolCall


async def probe(request: ToolRequest) -> ToolOutput:
    return ToolOutput(f"probed {request.arguments_json}", is_error=False)


def alice(*, tools: bool = False, **fields: Any) -> MemoryRun:
    one = agent(
        "alice",
        system_message="You are alice.",
        llm_config={"profile": "fast"} | fields,
        tools=("probe",) if tools else (),
    )
    return MemoryRun(team(one), [asked()], tools={"probe": probe} if tools else {})


async def failure(wire: Wire, **fields: Any) -> TurnFailure:
    run = alice()
    with pytest.raises(TurnFailure) as caught:
        await take_turn(run, wire.turns(run, **fields))
    assert run.said == [], "a failed reply was recorded"
    assert KEY not in caught.value.detail
    assert "Traceback" not in caught.value.detail
    return caught.value


async def test_a_reply_is_streamed_with_its_reasoning_apart_and_its_usage(wire: Wire) -> None:
    wire.server.reply_with(Reply("one two three TERMINATE", reasoning="hm well then"))
    run = alice(temperature=0.3, max_tokens=77)
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    assert list(run.streamed().values()) == ["one two three TERMINATE"]
    thought = "".join(text for _, _, kind, text in run.deltas if kind is DeltaKind.REASONING)
    assert thought == "hm well then "
    (message,) = run.said
    assert [part.kind for part in message.parts] == [PartKind.REASONING, PartKind.TEXT]
    (step,) = run.recorded
    assert step.model == "claude-x"
    assert ModelReply.decode(step.result).finish_reason == "stop"
    assert not step.usage.estimated
    assert step.usage.input_tokens > 0
    assert step.usage.output_tokens > 3
    assert step.usage.model_calls == 1
    body = wire.server.requests[0]
    options = body["options"] if wire.provider == "ollama" else body
    assert options["temperature"] == 0.3
    assert 77 in options.values()
    assert "You are alice." in json.dumps(body)
    assert KEY in json.dumps(dict(wire.server.headers[0]))


async def test_usage_that_a_server_keeps_to_itself_is_estimated(wire: Wire) -> None:
    wire.server.reply_with(Reply("one two three TERMINATE", usage=False))
    run = alice()
    await take_all(run, wire.turns(run))
    usage = run.recorded[0].usage
    assert usage.estimated
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0


async def test_tools_are_offered_called_and_answered(wire: Wire) -> None:
    calls = (ToolCall("probe", '{"n": 1}'), ToolCall("probe", '{"n": 2}'))
    wire.server.reply_with([Reply("Let me see.", tool_calls=calls), Reply("done TERMINATE")])
    run = alice(tools=True)
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    assert [json.loads(call.arguments_json) for call in run.tool_calls] == [{"n": 1}, {"n": 2}]
    assert len({call.tool_call_id for call in run.tool_calls}) == 2
    first, second = (json.dumps(body) for body in wire.server.requests)
    assert '"name": "probe"' in first
    assert "Let me see." in second
    for n in (1, 2):
        assert f'probed {{\\"n\\": {n}}}' in second
    streamed = "".join(t for _, _, kind, t in run.deltas if kind is DeltaKind.TOOL_ARGUMENTS)
    assert streamed == '{"n": 1}{"n": 2}'


async def test_malformed_tool_arguments_are_told_to_the_model(wire: Wire) -> None:
    async def refuse(request: ToolRequest) -> ToolOutput:
        return ToolOutput(f"{request.arguments_json} is no object", is_error=True)

    # Ollama's format has JSON only.
    arguments = "[1, 2]" if wire.provider == "ollama" else '{"n": '
    wire.server.reply_with(
        [Reply(tool_calls=(ToolCall("probe", arguments),)), Reply("done TERMINATE")]
    )
    run = alice(tools=True)
    run.tools["probe"] = refuse
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    (call,) = run.tool_calls
    assert call.arguments_json == arguments
    assert "is no object" in json.dumps(wire.server.requests[1])


async def test_a_conversation_of_several_is_told_in_order(wire: Wire) -> None:
    members = (agent(name, llm_config={"profile": "fast"}) for name in ("alice", "bob"))
    run = MemoryRun(team(*members), [asked("Talk.")])
    wire.server.reply_with(
        [Reply("from alice"), Reply("from bob"), Reply("again"), Reply("TERMINATE")]
    )
    await take_all(run, wire.turns(run))
    third = json.dumps(wire.server.requests[2])
    assert third.index("Talk.") < third.index("from alice") < third.index("from bob")


@pytest.mark.parametrize(
    ("fault", "kind", "calls"),
    [
        (Fault(status=400, message="no such parameter"), ModelRefused, 1),
        (Fault(status=404, message="no such model"), ModelRefused, 1),
        (Fault(status=413), ModelRefused, 1),
        (Fault(status=401, message=f"bad key {KEY}"), ModelCredentialsRefused, 1),
        (Fault(status=403), ModelCredentialsRefused, 1),
        (Fault(status=429, headers={"Retry-After": "0"}), ModelFailed, 3),
        (Fault(status=429, headers={"Retry-After": "100"}), ModelFailed, 1),
        (Fault(status=500), ModelFailed, 3),
        (Fault(status=529), ModelFailed, 3),
        (Fault(stream="drop"), ModelFailed, 3),
        (Fault(stream="drop", after_chunks=4), ModelFailed, 1),
        (Fault(stream="end", after_chunks=4), ModelFailed, 1),
        (Fault(stream="garbage", after_chunks=4), ModelFailed, 1),
        (Fault(stream="error", after_chunks=4, message=f"bad key {KEY}"), ModelFailed, 1),
    ],
)
async def test_each_failure_has_its_kind(
    wire: Wire, fault: Fault, kind: type[TurnFailure], calls: int
) -> None:
    wire.server.reply_with(Reply("one two three four five six"))
    wire.server.fail_next(fault, fault, fault)
    error = await failure(wire)
    assert type(error) is kind
    assert len(wire.server.requests) == calls
    if fault.status in (401, 403):
        assert "model profile 'fast'" in error.detail
    if fault.headers.get("Retry-After") == "100":
        assert error.retry_after == 100


async def test_a_passing_failure_is_asked_again(wire: Wire) -> None:
    wire.server.reply_with(Reply("well TERMINATE"))
    wire.server.fail_next(Fault(status=500), Fault(status=429, headers={"retry-after-ms": "20"}))
    run = alice()
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    assert list(run.streamed().values()) == ["well TERMINATE"]


async def test_a_stalled_stream_is_given_up(wire: Wire) -> None:
    wire.server.reply_with(Reply("one two three four"))
    wire.server.fail_next(Fault(stream="stall", after_chunks=4))
    error = await failure(wire, reply_timeout=0.3)
    assert isinstance(error, ModelFailed)
    assert "in time" in error.detail


@pytest.mark.parametrize("reply", [Reply(""), Reply(" \n "), Reply("", reasoning="hm")])
async def test_an_empty_reply_is_no_success(wire: Wire, reply: Reply) -> None:
    wire.server.reply_with(reply)
    error = await failure(wire)
    assert isinstance(error, ModelFailed)
    assert "empty" in error.detail


async def test_an_endless_reply_is_ended(wire: Wire) -> None:
    wire.server.reply_with(Reply(chunks=("word " * 100,) * 100))
    error = await failure(wire, max_reply_chars=2000)
    assert type(error) is ModelRefused
    assert "longer than 2000" in error.detail


async def test_a_line_without_end_is_given_up(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentmesh_agent_runtime.models.wire.LONGEST_LINE", 10_000)
    monkeypatch.setattr(wire.server, "GARBAGE", b"data: " + b"x" * 1_000_000)
    wire.server.fail_next(Fault(stream="garbage"))
    error = await failure(wire)
    assert type(error) is ModelRefused
    assert "line" in error.detail


@pytest.mark.parametrize("odd", [{"choices": [3], "message": 3, "type": "message_start"}, [1]])
async def test_a_chunk_of_another_shape_is_a_failure(wire: Wire, odd: Any) -> None:
    prefix = b"" if wire.provider == "ollama" else b"data: "
    wire.server.GARBAGE = prefix + json.dumps(odd).encode() + b"\n\n"
    wire.server.reply_with(Reply("one two three four"))
    wire.server.fail_next(Fault(stream="garbage", after_chunks=4))
    assert type(await failure(wire)) is ModelFailed


async def test_a_server_that_is_not_there(wire: Wire) -> None:
    wire.server.base_url = "http://127.0.0.1:9"
    error = await failure(wire)
    assert isinstance(error, ModelFailed)
    assert "connection" in error.detail


async def test_cancel_stops_a_model_call_at_once(wire: Wire) -> None:
    wire.server.fail_next(Fault(stream="stall", after_chunks=1))
    run = alice()
    scopes: list[TurnScope] = []
    turn = asyncio.create_task(take_turn(run, wire.turns(run), opened=scopes.append))
    async with asyncio.timeout(10):
        while not wire.server.open_streams:
            await asyncio.sleep(0.01)
        scopes[0].stop(LeaseLost("cancelled"))
        with pytest.raises(LeaseLost):
            await turn
        while wire.server.open_streams:
            await asyncio.sleep(0.01)
    assert len(wire.server.requests) == 1


async def test_a_reply_that_was_cut_off_says_so(wire: Wire) -> None:
    cut = {"anthropic": "max_tokens"}.get(wire.provider, "length")
    wire.server.reply_with(Reply("done TERMINATE", finish_reason=cut))
    run = alice()
    await take_all(run, wire.turns(run))
    assert ModelReply.decode(run.recorded[0].result).finish_reason == "length"


async def test_extra_settings_reach_the_server(wire: Wire) -> None:
    wire.server.reply_with(Reply("done TERMINATE"))
    run = alice(extra={"top_k": 7})
    await take_all(run, wire.turns(run))
    assert wire.server.requests[0]["top_k"] == 7


async def test_one_real_runtime_asks_all_of_them_in_one_conversation(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        wires = [
            Wire(provider, await stack.enter_async_context(server()))
            for provider, server in SERVERS.items()
        ]
        file = tmp_path / "models.yaml"
        file.write_text(yaml.safe_dump({w.provider: _written(w) for w in wires}))
        mesh = RealMesh(tmp_path, AGENTMESH_MODELS_FILE=str(file), SHARED_KEY=KEY)
        await mesh.start()
        stack.push_async_callback(mesh.close)
        for wire in wires:
            wire.server.reply_with(Reply(f"I am {wire.provider}", reasoning="hm"))
        members = (agent(w.provider, llm_config={"profile": w.provider}) for w in wires)
        conversation = await mesh.begin(team(*members), max_rounds=4)
        ended = await mesh.settled(conversation)
        said = [(who, text) for who, text in await mesh.texts(conversation) if who in SERVERS]
        assert said == [(provider, f"I am {provider}") for provider in SERVERS]
        assert ended.run.usage.model_calls == 4
        assert not ended.run.usage.estimated
        assert ended.run.usage.cost_micros == 4


def _written(wire: Wire) -> dict[str, Any]:
    """A profile as in a file, at a price so low that each reply is rounded up to one millionth."""
    spec = wire.profile.spec
    return {
        "provider": str(spec.provider),
        "model": spec.model,
        "base_url": spec.base_url,
        "key_ref": "SHARED_KEY",
        "output_price_micros": 1,
    }
