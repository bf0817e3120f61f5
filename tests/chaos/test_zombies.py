"""G3, G4: a runtime that stood still while another took its turn over wakes up, and can neither
write, nor stream, nor run a tool. It is kept from hearing that its lease is gone, so that it tries.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2, stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import (
    assert_dense,
    follow,
    messages_of,
    run_end,
    subscribe,
    tool_results,
)
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply
from tests.support.prompts import Prompt, call_tool
from tests.support.wire_tap import Side, WireTap

ZOMBIE = "agent_runtime"
EFFECT = """
with open("effects.log", "a") as log:
    log.write("once\\n")
"""
COUNT = """
print("ran", len(open("effects.log").readlines()), "time(s)")
"""


class Grave:
    """Where the replica that is behind the tap gets, and comes back from, without news."""

    def __init__(self, mesh: Mesh, tap: WireTap) -> None:
        self._process = mesh.processes[ZOMBIE]
        self._tap = tap
        self._letting_through = asyncio.Event()

    async def bury_and_hold(self) -> None:
        """Stops it with a call of its own on the way, which is held back."""
        await self.bury()
        await self._letting_through.wait()

    def let_through(self) -> None:
        """The call that was held back reaches the store."""
        self._letting_through.set()

    async def bury(self) -> None:
        """Stops it, and keeps from it what it is told of its leases."""
        self._process.send_signal(signal.SIGSTOP)
        self._tap.mute("LeaseTurns")

    def wake(self) -> None:
        """Lets it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def noticed(self) -> None:
        """Waits until it gave its turn up."""
        async with asyncio.timeout(30):
            while " ends: " not in self._process.log():
                await asyncio.sleep(0.05)

    def rest(self) -> None:
        """Lets it hear everything."""
        self._tap.unmute("LeaseTurns")
        self.let_through()
        self.wake()


@pytest_asyncio.fixture
async def grave(model_mesh: Mesh, store_tap: WireTap) -> AsyncIterator[Grave]:
    model_mesh.processes[ZOMBIE].log_file.write_text("")
    grave = Grave(model_mesh, store_tap)
    yield grave
    grave.rest()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something to become true."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_zombie_cannot_write(
    model_mesh: Mesh, model_server: ModelServer, store_tap: WireTap, grave: Grave
) -> None:
    """Its record is on the way when it stops, and arrives while the other takes the same step."""
    model_server.reply_with(lambda body, number: Reply(f"reply {number}"))
    held = store_tap.at(Side.BEFORE, "RecordStep", 1, grave.bury_and_hold)
    started = await model_mesh.start_conversation("say it", ("reviewer",), max_rounds=1)
    await asyncio.wait_for(held.reached.wait(), 30)
    model_server.hold()
    async with model_mesh.another_runtime():
        await until(lambda: len(model_server.requests) == 2)
        grave.let_through()
        await asyncio.wait_for(held.done.wait(), 30)
        grave.wake()
        await grave.noticed()
        model_server.release()
        events = await follow(model_mesh.channel(), started.conversation_id)
    assert_dense(events)
    assert [m.content for m in messages_of(events)] == ["say it", "reply 2"]
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED
    assert len(model_server.requests) == 2


async def test_a_zombie_runs_no_tool(
    model_mesh: Mesh, model_server: ModelServer, store_tap: WireTap, grave: Grave
) -> None:
    """It is stopped when the reply with the call is recorded, and calls when it wakes up: while
    the other's turn is still under way."""

    def act(body: dict[str, Any], number: int) -> Reply:
        results = Prompt(body).tool_results
        if not results:
            return call_tool("code_executor", language="python", code=EFFECT)
        if len(results) == 1:
            return call_tool("code_executor", language="python", code=COUNT)
        return Reply("done")

    model_server.reply_with(act)
    buried = store_tap.at(Side.AFTER, "RecordStep", 1, grave.bury)
    started = await model_mesh.start_conversation("do it once", ("developer",), max_rounds=1)
    await asyncio.wait_for(buried.done.wait(), 30)
    async with model_mesh.another_runtime():
        # The other has run the program and asks what is next.
        model_server.delay = 4.0
        await until(lambda: len(model_server.requests) == 2)
        grave.wake()
        await grave.noticed()
        events = await follow(model_mesh.channel(), started.conversation_id)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED
    results = [result.output for result in tool_results(events)]
    assert len(results) == 2
    assert "ran 1 time(s)" in results[1]
    assert len(model_server.requests) == 3


async def test_a_zombie_cannot_stream(
    model_mesh: Mesh, model_server: ModelServer, grave: Grave
) -> None:
    """It is stopped in the middle of a reply, and streams on when the other is in the middle of its
    own."""

    def words(body: dict[str, Any], number: int) -> Reply:
        return Reply(" ".join(f"{'old' if number == 1 else 'new'}{i}" for i in range(300)))

    model_server.reply_with(words)
    model_server.chunk_delay = 0.05
    started = await model_mesh.start_conversation("speak", ("reviewer",), max_rounds=1)
    watching = asyncio.create_task(_watch(model_mesh, started.conversation_id))
    seen = await _first_delta(model_mesh, started.conversation_id)
    assert "old" in seen.text
    await grave.bury()
    async with model_mesh.another_runtime():
        await until(lambda: len(model_server.requests) == 2)
        await asyncio.sleep(1)
        grave.wake()
        await grave.noticed()
        items = await watching
    deltas = [item.delta for item in items if item.HasField("delta")]
    fences = [delta.fence for delta in deltas]
    assert fences == sorted(fences)
    assert len(set(fences)) == 2
    assert {d.text.strip()[:3] for d in deltas if d.fence == max(fences)} == {"new"}
    events = await follow(model_mesh.channel(), started.conversation_id)
    assert messages_of(events)[-1].content.startswith("new0")
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED


async def _watch(mesh: Mesh, conversation_id: str) -> list[stream_pb2.StreamItem]:
    return await subscribe(mesh.channel(), conversation_id)


async def _first_delta(mesh: Mesh, conversation_id: str) -> stream_pb2.Delta:
    request = conversations.SubscribeConversationRequest(
        conversation_id=conversation_id, until=stream_pb2.SUBSCRIBE_UNTIL_RUN_END
    )
    call = ConversationServiceStub(mesh.channel()).SubscribeConversation(request, timeout=60)
    async for response in call:
        if response.item.HasField("delta"):
            call.cancel()
            delta: stream_pb2.Delta = response.item.delta
            return delta
    raise AssertionError("nothing was streamed")
