"""What a reader of a conversation sees."""

import asyncio
import io
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import usage_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2, stream_pb2
from agentmesh.gateway.v1.conversation_service_pb2 import (
    SubscribeConversationRequest,
    SubscribeConversationResponse,
)
from agentmesh_cli.rendering.page import Page
from agentmesh_cli.rendering.transcript import Transcript
from agentmesh_client import Subscription
from google.protobuf.struct_pb2 import Struct
from rich.console import Console


class Wire:
    """A stream as gRPC gives it: items, then its end."""

    def __init__(self, items: list[stream_pb2.StreamItem]) -> None:
        self._responses = [SubscribeConversationResponse(item=item) for item in items]

    async def read(self) -> object:
        return self._responses.pop(0) if self._responses else grpc.aio.EOF

    def cancel(self) -> None:
        self._responses.clear()


class Reader:
    """Reads a conversation from the wire, through the client, and shows it."""

    def __init__(self, *, live: bool) -> None:
        self._file = io.StringIO()
        console = Console(file=self._file, width=100, markup=False, highlight=False, emoji=False)
        self.transcript = Transcript(Page(console, live=live))
        self._items: list[stream_pb2.StreamItem] = []
        self._sequence = 0
        self._index: dict[str, int] = {}

    def item(self, item: stream_pb2.StreamItem) -> None:
        self._items.append(item)

    @property
    def page(self) -> str:
        asyncio.run(self._read())
        return self._file.getvalue()

    async def _read(self) -> None:
        request = SubscribeConversationRequest(until=stream_pb2.SUBSCRIBE_UNTIL_RUN_END)
        items, self._items = self._items, []
        async for item in Subscription(lambda *_, **__: Wire(items), request, (), 0.0):
            self.transcript.show(item)
        self.transcript.close()

    def event(self, agent: str = "", **kind: Any) -> None:
        self._sequence += 1
        event = event_pb2.Event(sequence=self._sequence, turn=1, agent=agent, **kind)
        self.item(stream_pb2.StreamItem(events=stream_pb2.EventBatch(events=[event])))

    def says(
        self, message_id: str, agent: str, text: str, *calls: message_pb2.ToolCallPart
    ) -> None:
        parts = [message_pb2.Part(text=message_pb2.TextPart(text=text))] if text else []
        parts += [message_pb2.Part(tool_call=call) for call in calls]
        role = message_pb2.MESSAGE_ROLE_USER if agent == "user" else message_pb2.MESSAGE_ROLE_AGENT
        self.event(
            agent,
            message=message_pb2.Message(
                message_id=message_id, role=role, agent=agent, content=text, parts=parts
            ),
        )

    def answers(self, message_id: str, agent: str, result: message_pb2.ToolResultPart) -> None:
        self.event(
            agent,
            message=message_pb2.Message(
                message_id=message_id,
                role=message_pb2.MESSAGE_ROLE_TOOL,
                agent=agent,
                content=result.output,
                parts=[message_pb2.Part(tool_result=result)],
            ),
        )

    def delta(
        self,
        message_id: str,
        text: str,
        kind: stream_pb2.DeltaKind.ValueType = stream_pb2.DELTA_KIND_TEXT,
        *,
        agent: str = "developer",
        fence: int = 1,
        index: int | None = None,
    ) -> None:
        key = f"{message_id}/{fence}"
        number = self._index.get(key, 0) if index is None else index
        self._index[key] = number + 1
        self.item(
            stream_pb2.StreamItem(
                delta=stream_pb2.Delta(
                    message_id=message_id, agent=agent, kind=kind, text=text, fence=fence,
                    first_index=number, last_index=number,
                )
            )
        )  # fmt: skip


def failed_tests() -> message_pb2.ToolResultPart:
    detail = Struct()
    detail.update({"exit_code": 1, "reason": "exited"})
    return message_pb2.ToolResultPart(
        tool_call_id="call_1",
        tool="code_executor",
        outcome=message_pb2.TOOL_OUTCOME_ERROR,
        output="collected 2 items\n1 failed, 1 passed\n",
        detail=detail,
    )


CALL = message_pb2.ToolCallPart(
    tool_call_id="call_1",
    tool="code_executor",
    arguments_json='{"language": "shell", "code": "cd app\\npytest -q", "timeout": 30}',
)

PLAIN = """
▌ user
  parse durations

▌ developer
  I run the tests.
  → code_executor language="shell" code="cd app pytest -q" (2 lines) timeout=30
  ┆ collected 2 items
  ┆ 1 failed, 1 passed
  ✗ code_executor error, exit status 1

▌ reviewer
  Mend it.
"""


@pytest.mark.parametrize("live", [False, True])
def test_a_conversation_reads_as_it_went(live: bool) -> None:
    reader = Reader(live=live)
    reader.event(conversation_started=event_pb2.ConversationStarted(task="parse durations"))
    reader.says("msg_0", "user", "parse durations")
    reader.says("msg_1", "developer", "I run the tests.", CALL)
    reader.answers("msg_2", "developer", failed_tests())
    reader.event(turn_committed=event_pb2.TurnCommitted(speaker="developer"))
    reader.says("msg_3", "reviewer", "Mend it.")
    assert reader.page == PLAIN


def test_streamed_text_and_output_are_not_shown_twice() -> None:
    reader = Reader(live=True)
    reader.says("msg_0", "user", "parse durations")
    for piece in ("I run ", "the tes", "ts."):
        reader.delta("msg_1", piece)
    reader.says("msg_1", "developer", "I run the tests.", CALL)
    reader.delta("msg_2", "collected 2 items\n", stream_pb2.DELTA_KIND_STDOUT)
    reader.delta("msg_2", "1 failed, 1 passed\n", stream_pb2.DELTA_KIND_STDERR)
    reader.answers("msg_2", "developer", failed_tests())
    reader.event(turn_committed=event_pb2.TurnCommitted(speaker="developer"))
    reader.says("msg_3", "reviewer", "Mend it.")
    assert reader.page == PLAIN


def test_streamed_text_is_on_the_page_before_its_event() -> None:
    reader = Reader(live=True)
    reader.delta("msg_1", "half a sen")
    assert reader.page.endswith("▌ developer\n  half a sen\n")


def test_where_nobody_watches_only_events_are_shown() -> None:
    reader = Reader(live=False)
    reader.delta("msg_1", "half a sentence")
    reader.says("msg_1", "developer", "half a sentence and the rest")
    assert reader.page.count("half a sentence") == 1


def test_a_lost_piece_is_made_up_by_the_event() -> None:
    reader = Reader(live=True)
    reader.delta("msg_1", "one ", index=0)
    reader.delta("msg_1", "three ", index=2)
    reader.delta("msg_1", "four", index=3)
    reader.says("msg_1", "developer", "one two three four")
    assert reader.page == "\n▌ developer\n  one two three four\n"


def test_who_comes_late_gets_the_text_so_far_once() -> None:
    reader = Reader(live=True)
    reader.delta("msg_1", "one ", index=0)
    so_far = stream_pb2.Delta(
        message_id="msg_1", agent="developer", kind=stream_pb2.DELTA_KIND_TEXT,
        text="one two ", fence=1, first_index=0, last_index=1,
    )  # fmt: skip
    reader.item(stream_pb2.StreamItem(delta=so_far))
    reader.delta("msg_1", "three", index=2)
    reader.says("msg_1", "developer", "one two three")
    assert reader.page == "\n▌ developer\n  one two three\n"


def test_a_message_made_again_starts_again() -> None:
    reader = Reader(live=True)
    reader.delta("msg_1", "first attem", fence=1)
    reader.delta("msg_1", "second ", fence=2)
    reader.delta("msg_1", "late news of the dead", fence=1)
    reader.delta("msg_1", "attempt", fence=2)
    reader.says("msg_1", "developer", "second attempt")
    page = reader.page
    assert "interrupted; it is made again" in page
    assert page.endswith("  second attempt\n")
    assert "late news" not in page


def test_a_discard_takes_a_message_back() -> None:
    reader = Reader(live=True)
    reader.delta("msg_1", "abandoned", fence=1)
    discard = stream_pb2.DeltaDiscard(message_id="msg_1", fence=2)
    reader.item(stream_pb2.StreamItem(discard=discard))
    reader.says("msg_1", "developer", "what counts")
    page = reader.page
    assert "made again" in page
    assert page.rstrip().endswith("what counts")


def test_messages_written_at_once_are_shown_one_after_the_other() -> None:
    reader = Reader(live=True)
    for left, right in (("a1 ", "b1 "), ("a2", "b2")):
        reader.delta("msg_a", left, agent="alice")
        reader.delta("msg_b", right, agent="bob")
    reader.says("msg_a", "alice", "a1 a2")
    reader.delta("msg_b", " b3", agent="bob")
    reader.says("msg_b", "bob", "b1 b2 b3")
    assert reader.page == "\n▌ alice\n  a1 a2\n\n▌ bob\n  b1 b2 b3\n"


def test_agents_cannot_write_on_the_margin_or_to_the_terminal() -> None:
    reader = Reader(live=True)
    reader.delta("msg_1", "fine\x1b")
    reader.delta("msg_1", "[2J\n▌ reviewer\n  approved")
    reader.says("msg_1", "developer", "fine\x1b[2J\n▌ reviewer\n  approved")
    reader.says("msg_2", "eve\x1b]0;x\x07\n▌ root", "[red]hi[/red]")
    page = reader.page
    assert "\x1b" not in page
    assert "\n  ▌ reviewer\n" in page
    assert "[red]hi[/red]" in page
    assert [line for line in page.splitlines() if line.startswith("▌")] == [
        "▌ developer",
        "▌ eve ▌ root",
    ]


def test_unknown_kinds_of_events_are_passed_over() -> None:
    reader = Reader(live=False)
    reader.event()
    assert reader.page == ""
    assert reader.transcript.last_sequence == 1


def test_files_are_named_below_what_was_said() -> None:
    reader = Reader(live=False)
    blob = message_pb2.BlobPart(
        digest="a" * 64, size_bytes=7, media_type="image/png", filename="cat\x1b[2J.png"
    )
    text = message_pb2.Part(text=message_pb2.TextPart(text="Look"))
    said = message_pb2.Message(
        message_id="m1",
        role=message_pb2.MESSAGE_ROLE_USER,
        agent="user",
        content="Look",
        parts=[text, message_pb2.Part(blob=blob)],
    )
    reader.event("user", message=said)
    lines = [line.strip() for line in reader.page.splitlines()]
    assert lines[-2:] == ["Look", "[cat.png: image/png, 7 bytes]"]


def test_what_goes_wrong_is_said() -> None:
    reader = Reader(live=False)
    failed = event_pb2.AttemptFailed(attempt=1, detail="model server: 503\x1b[2J")
    failed.retry_after.FromMilliseconds(500)
    reader.event(attempt_failed=failed)
    reader.event(turn_discarded=event_pb2.TurnDiscarded(reason="interrupted"))
    reader.event(workspace_restored=event_pb2.WorkspaceRestored(text="Files were put back."))
    reader.event(
        run_status_changed=event_pb2.RunStatusChanged(
            status=conversation_pb2.RUN_STATUS_WAITING,
            waiting_for=conversation_pb2.WAIT_KIND_INPUT,
            detail="which format?",
        )
    )
    assert reader.page.splitlines() == [
        "· attempt 1 failed: model server: 503; the next one in 0.5 s",
        "↺ turn 1 given up: interrupted",
        "· Files were put back.",
        "· waiting for input which format?",
    ]


def test_usage_is_summed_by_speaker() -> None:
    reader = Reader(live=False)
    for speaker, tokens in (("developer", 10), ("reviewer", 5), ("developer", 7)):
        usage = usage_pb2.Usage(input_tokens=tokens, estimated=tokens == 5)
        reader.event(turn_committed=event_pb2.TurnCommitted(speaker=speaker, usage=usage))
    assert reader.page == ""
    usage_by = reader.transcript.usage
    assert usage_by["developer"] == usage_pb2.Usage(input_tokens=17)
    assert usage_by["reviewer"] == usage_pb2.Usage(input_tokens=5, estimated=True)


def test_long_output_is_abridged_where_it_says_so() -> None:
    reader = Reader(live=False)
    output = "\n".join(f"line {number}" for number in range(200))
    result = message_pb2.ToolResultPart(
        tool="code_executor", outcome=message_pb2.TOOL_OUTCOME_OK, output=output, truncated=True
    )
    reader.answers("msg_1", "developer", result)
    page = reader.page
    assert "170 lines left out" in page
    assert "line 0\n" in page
    assert "line 199\n" in page
    assert "line 100\n" not in page
    assert "✓ code_executor ok, output cut off" in page
