"""What model servers should not do, over each wire: a reason of the enum, no hang, no success."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from agentmesh_agent_runtime.mends import MeshAgent
from agentmesh_agent_runtime.models.replies import ModelReply
from agentmesh_agent_runtime.turns import driver as driving
from agentmesh_agent_runtime.turns.failures import (
    EndReason,
    ModelCredentialsRefused,
    ModelFailed,
    ModelRefused,
    TurnFailure,
    TurnStalled,
)
from agentmesh_agent_runtime.turns.ports import DeltaKind, ToolOutput, ToolRequest

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.wires import KEY, Wire
from tests.support.model_server import Fault, ModelServer, Reply, ToolCall

DONE = Reply("done TERMINATE")
PATIENCE = 60.0
"""Seconds within which everything here has to end."""


async def probe(request: ToolRequest) -> ToolOutput:
    return ToolOutput(f"probed {request.arguments_json}", is_error=False)


def alice(*, tools: bool = False) -> MemoryRun:
    one = agent("alice", llm_config={"profile": "fast"}, tools=("probe",) if tools else ())
    return MemoryRun(team(one), [asked()], tools={"probe": probe} if tools else {})


async def failure(wire: Wire, **fields: Any) -> TurnFailure:
    run = alice()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TurnFailure) as caught:
            await take_turn(run, wire.turns(run, **fields))
    assert run.said == [], "a failed reply was recorded"
    assert KEY not in caught.value.detail
    assert caught.value.reason in EndReason
    return caught.value


@pytest.mark.parametrize(
    ("fault", "kind", "calls"),
    [
        (Fault(status=400), ModelRefused, 1),
        (Fault(status=401), ModelCredentialsRefused, 1),
        (Fault(status=403), ModelCredentialsRefused, 1),
        (Fault(status=404), ModelRefused, 1),
        (Fault(status=429), ModelFailed, 3),
        (Fault(status=429, headers={"Retry-After": "0"}), ModelFailed, 3),
        (Fault(status=429, headers={"Retry-After": "soon"}), ModelFailed, 3),
        (Fault(status=429, headers={"Retry-After": "-5"}), ModelFailed, 3),
        (Fault(status=429, headers={"Retry-After": "nan"}), ModelFailed, 3),
        (Fault(status=429, headers={"Retry-After": "1e300"}), ModelFailed, 3),
        (Fault(status=429, headers={"retry-after-ms": "nan"}), ModelFailed, 3),
        (Fault(status=429, headers={"Retry-After": "9" * 30}), ModelFailed, 1),
        (Fault(status=500), ModelFailed, 3),
        (Fault(status=503), ModelFailed, 3),
        (Fault(stream="reset"), ModelFailed, 3),
        (Fault(stream="drop"), ModelFailed, 3),
        (Fault(stream="page"), ModelFailed, 3),
        (Fault(stream="nothing"), ModelFailed, 3),
        (Fault(stream="cut"), ModelFailed, 3),
        (Fault(stream="cut", after_chunks=5), ModelFailed, 1),
        (Fault(stream="bytes"), ModelFailed, 3),
        (Fault(stream="bytes", after_chunks=5), ModelFailed, 1),
        (Fault(stream="garbage"), ModelFailed, 3),
    ],
)
async def test_what_a_server_does_wrong_has_its_reason(
    wire: Wire, fault: Fault, kind: type[TurnFailure], calls: int
) -> None:
    wire.server.reply_with(Reply("one two three four five six"))
    wire.server.fail_next(*[fault] * 5)
    error = await failure(wire)
    assert type(error) is kind, error.detail
    assert len(wire.server.requests) == calls
    assert error.retry_after is None or 0 <= error.retry_after <= 24 * 3600


@pytest.mark.parametrize("fault", [Fault(stream="silent"), Fault(stream="stall", after_chunks=0)])
async def test_a_server_that_says_nothing_is_given_up(wire: Wire, fault: Fault) -> None:
    wire.server.fail_next(*[fault] * 3)
    error = await failure(wire, reply_timeout=0.3)
    assert type(error) is ModelFailed
    assert "in time" in error.detail


@pytest.mark.parametrize("after", [0, 5])
async def test_signs_of_life_alone_are_no_progress(wire: Wire, after: int) -> None:
    wire.server.reply_with(Reply("one two three four five six"))
    wire.server.fail_next(*[Fault(stream="pings", after_chunks=after)] * 3)
    error = await failure(wire, stall_seconds=0.5)
    assert type(error) is TurnStalled
    assert "alice asks claude-x" in error.detail


@asynccontextmanager
async def speaking(*said: bytes, again: bytes = b"") -> AsyncIterator[str]:
    """The address of a server that says this to whoever connects, and `again` for ever after."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in said:
            writer.write(piece)
        with suppress(ConnectionError):
            while again:
                writer.write(again)
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@pytest.mark.parametrize(
    "said",
    [
        b"220 smtp.example.com ESMTP\r\n",
        b"\x00\xff\xfe\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        OK + b"Content-Length: 1000\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 500 \xff\xfe\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd",
    ],
)
async def test_what_is_no_http_or_half_of_it_is_a_failure(wire: Wire, said: bytes) -> None:
    async with speaking(said) as wire.server.base_url:
        assert type(await failure(wire)) is ModelFailed


async def test_headers_that_never_end_are_no_progress(wire: Wire) -> None:
    async with speaking(OK, again=b"X-More: 1\r\n") as wire.server.base_url:
        assert type(await failure(wire, stall_seconds=0.5)) is TurnStalled


@pytest.mark.parametrize(
    "counts",
    [
        (-5, -7),
        (None, None),
        (10, -1),
        ("12", "3"),
        (1.5, 2.5),
        (True, True),
        (10**30, 10**30),
        ([], {}),
        (0, 0),
    ],
)
async def test_absurd_counts_of_tokens_are_estimated(wire: Wire, counts: tuple[Any, Any]) -> None:
    wire.server.reply_with(Reply("done TERMINATE", counts=counts))
    run = alice()
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    usage = run.recorded[0].usage
    assert usage.estimated
    assert 0 < usage.input_tokens < 1000
    assert 0 < usage.output_tokens < 1000
    assert usage.cached_input_tokens >= 0


async def test_a_call_to_an_unknown_tool_is_told_to_the_model(wire: Wire) -> None:
    calls = (ToolCall("no_such_tool", "{}"), ToolCall("", "{}"))
    wire.server.reply_with([Reply(tool_calls=calls), DONE])
    run = alice(tools=True)
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    assert run.tool_calls == []
    told = json.dumps(wire.server.requests[1])
    assert "You have no tool 'no_such_tool'. Your tools: probe." in told
    assert "You have no tool ''" in told


async def test_calls_under_one_id_are_two_calls(wire: Wire) -> None:
    calls = (ToolCall("probe", '{"n": 1}', "same"), ToolCall("probe", '{"n": 2}', "same"))
    wire.server.reply_with([Reply(tool_calls=calls), Reply(tool_calls=calls), DONE])
    run = alice(tools=True)
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    assert len({call.tool_call_id for call in run.tool_calls}) == 4
    last = json.dumps(wire.server.requests[2])
    assert last.count("probed") == 4
    if wire.provider in ("openai", "azure_openai"):
        messages = wire.server.requests[2]["messages"]
        answered = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
        assert len(set(answered)) == 4


@pytest.mark.parametrize("arguments", ["[1]", '"text"', "null", "7", '{"n": NaN}', '{"n": 1e999}'])
async def test_arguments_that_are_no_object_are_told_to_the_model(
    wire: Wire, arguments: str
) -> None:
    async def refuse(request: ToolRequest) -> ToolOutput:
        return ToolOutput(f"{request.arguments_json} is no object", is_error=True)

    wire.server.reply_with([Reply(tool_calls=(ToolCall("probe", arguments),)), DONE])
    run = alice(tools=True)
    run.tools["probe"] = refuse
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    assert "is no object" in json.dumps(wire.server.requests[1])


async def test_halves_of_a_character_are_joined_or_replaced(wire: Wire) -> None:
    chunks = ("a \ud83d", "\ude00 b \ud83d", " c \ude00 TERMINATE \ud83d")
    wire.server.reply_with(Reply(chunks=chunks))
    run = alice()
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    expected = "a \U0001f600 b \ufffd c \ufffd TERMINATE \ufffd"
    assert [message.text for message in run.said] == [expected]
    assert ModelReply.decode(run.recorded[0].result).text == expected
    for _, _, _, piece in run.deltas:
        piece.encode()


async def test_halves_of_a_character_in_a_call_are_no_failure(wire: Wire) -> None:
    call = ToolCall("probe", json.dumps({"n": "\ud83d"}), "id\ud83d")
    wire.server.reply_with([Reply(tool_calls=(call,), reasoning="\ude00 hm"), DONE])
    run = alice(tools=True)
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    (made,) = run.tool_calls
    made.arguments_json.encode()
    made.tool_call_id.encode()
    thought = "".join(t for _, _, kind, t in run.deltas if kind is DeltaKind.REASONING)
    thought.encode()


async def test_a_chunk_that_is_too_deep_to_read_is_a_failure(wire: Wire) -> None:
    prefix = b"" if wire.provider == "ollama" else b"data: "
    wire.server.GARBAGE = prefix + b"[" * 100_000 + b"\n\n"
    wire.server.reply_with(Reply("one two three four five six"))
    wire.server.fail_next(Fault(stream="garbage", after_chunks=5))
    assert type(await failure(wire)) is ModelFailed


async def test_an_endless_thought_and_endless_calls_are_ended(wire: Wire) -> None:
    endless = Reply(reasoning="hm " * 2000)
    calls = Reply(tool_calls=(ToolCall("probe", json.dumps({"n": "x" * 4000})),))
    for reply in (endless, calls):
        wire.server.reply_with(reply)
        error = await failure(wire, max_reply_chars=2000)
        assert type(error) is ModelRefused
        assert "longer than 2000" in error.detail


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_turn_that_autogen_never_ends_is_ended(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    async def hang(*_: Any) -> Any:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if not stubborn or freed:
                    raise
        yield

    freed: list[bool] = []
    model_server.reply_with(DONE)
    wire = Wire("openai", model_server)
    run = alice()
    with monkeypatch.context() as blocked:
        blocked.setattr(MeshAgent, "on_messages_stream", hang)
        blocked.setattr(driving, "UNWIND_SECONDS", 0.3)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(TurnStalled, match=r"no progress for 0\.3 s"):
                await take_turn(run, wire.turns(run, stall_seconds=0.3))
    freed.append(True)
    # What was left behind keeps nobody from taking the turn again.
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED


async def test_a_tool_that_stalls_is_ended(model_server: ModelServer) -> None:
    async def stall(request: ToolRequest) -> ToolOutput:
        await asyncio.sleep(3600)
        raise AssertionError

    model_server.reply_with([Reply(tool_calls=(ToolCall("probe", "{}"),)), DONE])
    wire = Wire("openai", model_server)
    run = alice(tools=True)
    run.tools["probe"] = stall
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TurnStalled, match="alice calls probe") as caught:
            await take_turn(run, wire.turns(run, stall_seconds=0.3))
    assert caught.value.retryable
    run.tools["probe"] = probe
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    assert len(model_server.requests) == 2, "a recorded reply was asked for again"


async def test_two_models_in_one_line_are_no_shared_failure(model_server: ModelServer) -> None:
    """A stream that never ends holds up its own run alone."""
    model_server.reply_with(DONE)
    model_server.fail_next(Fault(stream="pings"))
    stuck, free = alice(), alice()
    wire = Wire("openai", model_server)
    turns = wire.turns(stuck, stall_seconds=2.0)
    async with asyncio.timeout(PATIENCE):
        waiting = asyncio.create_task(take_turn(stuck, turns))
        while not model_server.requests:
            await asyncio.sleep(0.01)
        assert await take_all(free, driver(free, profiles=[wire.profile])) is EndReason.TERMINATED
        assert not waiting.done()
        with pytest.raises(TurnStalled):
            await waiting
