"""Pieces of messages on their way to the store: joined for some milliseconds, never waited for."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from meshkit.tasks import stop

from agentmesh_agent_runtime.adapters.store_turns import Head
from agentmesh_agent_runtime.turns.grant import Grant
from agentmesh_agent_runtime.turns.ports import DeltaKind

if TYPE_CHECKING:
    # The generated stubs for asyncio exist for type checkers only.
    from agentmesh.conversation_store.v1.turn_service_pb2_grpc import TurnServiceAsyncStub

log = logging.getLogger(__name__)

JOIN_SECONDS = 0.015
MAX_PENDING_CHARS = 8 << 20
MAX_DELTA_CHARS = 256 << 10
_RETRY_SECONDS = 0.5
_KINDS = {
    DeltaKind.TEXT: stream_pb2.DELTA_KIND_TEXT,
    DeltaKind.REASONING: stream_pb2.DELTA_KIND_REASONING,
    DeltaKind.TOOL_ARGUMENTS: stream_pb2.DELTA_KIND_TOOL_ARGUMENTS,
}


class DeltaStream:
    """The one PublishDeltas stream of a runtime. Deltas are a preview: without a store they go."""

    def __init__(self, stub: TurnServiceAsyncStub) -> None:
        self._stub = stub
        self._sinks: dict[LeaseDeltas, None] = {}
        self._pushed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def lease(self, grant: Grant, head: Head) -> LeaseDeltas:
        """The sink of one lease."""
        return LeaseDeltas(self, grant, head)

    def wake(self, sink: LeaseDeltas) -> None:
        """Has `sink` emptied with the next message."""
        self._sinks[sink] = None
        self._pushed.set()

    def hurry(self) -> None:
        """Has what waits sent at once."""
        self._hurry.set()

    def start(self) -> None:
        """Begins to send."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Sends nothing more."""
        await stop(self._task)

    async def _run(self) -> None:
        while True:
            await self._pushed.wait()
            try:
                await self._stub.PublishDeltas(self._requests())
            except grpc.aio.AioRpcError as error:
                log.debug("deltas are not taken: %s", error.code().name)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _requests(self) -> AsyncIterator[turns_pb2.PublishDeltasRequest]:
        while True:
            await self._pushed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(JOIN_SECONDS):
                    await self._hurry.wait()
            self._hurry.clear()
            self._pushed.clear()
            sinks, self._sinks = self._sinks, {}
            for sink in sinks:
                for request in sink.take():
                    yield request


class LeaseDeltas:
    """DeltaSink of one lease."""

    def __init__(self, stream: DeltaStream, grant: Grant, head: Head) -> None:
        self._stream = stream
        self._grant = grant
        self._head = head
        self._indices: Counter[str] = Counter()
        self._open: stream_pb2.Delta | None = None
        self._pieces: list[str] = []
        self._ready: list[stream_pb2.Delta] = []
        self._pending = 0

    def push(self, message_id: str, agent: str, kind: DeltaKind, text: str) -> None:
        """See DeltaSink. While too much waits for the store, pieces are left out."""
        index = self._indices[message_id]
        self._indices[message_id] = index + 1
        if self._pending > MAX_PENDING_CHARS:
            return
        delta = self._open
        if (
            delta is None
            or delta.message_id != message_id
            or delta.kind != _KINDS[kind]
            or delta.last_index != index - 1
            or self._pending > MAX_DELTA_CHARS * (len(self._ready) + 1)
        ):
            self._close()
            delta = self._open = self._begin(message_id, agent, kind, index)
        delta.last_index = index
        self._pieces.append(text)
        if self._pending == 0:
            self._stream.wake(self)
        self._pending += max(1, len(text))

    def flush(self) -> None:
        """See DeltaSink."""
        if self._pending:
            self._stream.hurry()

    def take(self) -> list[turns_pb2.PublishDeltasRequest]:
        """What waits."""
        self._close()
        ready, self._ready, self._pending = self._ready, [], 0
        capability = self._grant.capability
        return [
            turns_pb2.PublishDeltasRequest(deltas=[delta], capability=capability) for delta in ready
        ]

    def _begin(self, message_id: str, agent: str, kind: DeltaKind, index: int) -> stream_pb2.Delta:
        turn = self._grant.id
        return stream_pb2.Delta(
            conversation_id=turn.conversation_id,
            run_id=turn.run_id,
            turn=turn.turn,
            message_id=message_id,
            agent=agent,
            kind=_KINDS[kind],
            fence=turn.fence,
            first_index=index,
            last_index=index,
            after_sequence=self._head.sequence,
        )

    def _close(self) -> None:
        if self._open is not None:
            self._open.text = "".join(self._pieces)
            self._ready.append(self._open)
            self._open, self._pieces = None, []
