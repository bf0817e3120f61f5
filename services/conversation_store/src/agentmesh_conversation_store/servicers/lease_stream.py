"""One LeaseTurns stream: what the runtime says goes in, what it must know comes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from agentmesh.conversation_store.v1 import turn_service_pb2 as pb
from meshkit.errors import MeshError

from agentmesh_conversation_store.codec.grants import grant_message
from agentmesh_conversation_store.codec.values import duration, timestamp
from agentmesh_conversation_store.leasing.dispatcher import Dispatcher
from agentmesh_conversation_store.leasing.workers import Granted, Message, Renewed, Replaced, Worker
from agentmesh_conversation_store.storage.interface import LostLease


class LeaseStream:
    """Serves one runtime until it leaves, is replaced by its own newer stream, or we drain."""

    def __init__(
        self, dispatcher: Dispatcher, draining: asyncio.Event, most_grant_bytes: int
    ) -> None:
        self._dispatcher = dispatcher
        self._draining = draining
        self._most_grant_bytes = most_grant_bytes

    async def responses(
        self, requests: AsyncIterator[pb.LeaseTurnsRequest]
    ) -> AsyncIterator[pb.LeaseTurnsResponse]:
        """The store's side of the stream."""
        hello = await self._hello(requests)
        worker = Worker(hello.worker_id, hello.max_turns)
        yield self._accepted()
        listening: asyncio.Task[None] | None = None
        ending = asyncio.create_task(self._draining.wait())
        try:
            await self._dispatcher.connect(worker, _held(hello.held))
            listening = asyncio.create_task(self._listen(worker, requests))
            async for message in self._outgoing(worker, listening, ending):
                yield _response(message, self._most_grant_bytes)
        finally:
            ending.cancel()
            if listening is not None:
                listening.cancel()
            self._dispatcher.disconnect(worker)

    async def _hello(self, requests: AsyncIterator[pb.LeaseTurnsRequest]) -> pb.LeaseHello:
        async for request in requests:
            if request.WhichOneof("kind") == "hello":
                return request.hello
            break
        raise MeshError.invalid("hello", "must be the first message of the stream")

    async def _listen(self, worker: Worker, requests: AsyncIterator[pb.LeaseTurnsRequest]) -> None:
        async for request in requests:
            kind = request.WhichOneof("kind")
            if kind == "renewal":
                await self._dispatcher.renew(worker, _held(request.renewal.held))
            elif kind == "capacity":
                self._dispatcher.resize(worker, request.capacity.max_turns)
            elif kind == "hello":
                raise MeshError.invalid("hello", "comes once, as the first message")

    async def _outgoing(
        self,
        worker: Worker,
        listening: asyncio.Task[None],
        ending: asyncio.Task[bool],
    ) -> AsyncIterator[Message]:
        while True:
            getting = asyncio.ensure_future(worker.outbox.get())
            try:
                await asyncio.wait(
                    {getting, listening, ending}, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                if not getting.done():
                    getting.cancel()
            if getting.done() and not getting.cancelled():
                message = getting.result()
                if isinstance(message, Replaced):
                    raise MeshError.unavailable(
                        "conversation_store", "the worker opened another stream"
                    )
                yield message
            elif ending.done():
                raise MeshError.draining()
            else:
                if not listening.cancelled():
                    listening.result()  # raises what was wrong with a message
                return

    def _accepted(self) -> pb.LeaseTurnsResponse:
        times = self._dispatcher.times
        return pb.LeaseTurnsResponse(
            accepted=pb.LeaseAccepted(
                lease_duration=duration(times.lease), renew_every=duration(times.renew_every)
            )
        )


def _held(fences: Sequence[pb.RunFence]) -> list[tuple[str, int]]:
    return [(held.run_id, held.fence) for held in fences]


def _response(message: Message, most_grant_bytes: int) -> pb.LeaseTurnsResponse:
    if isinstance(message, Granted):
        grant = grant_message(message.turn, message.capability, most_grant_bytes)
        return pb.LeaseTurnsResponse(grant=grant)
    if isinstance(message, Renewed):
        return pb.LeaseTurnsResponse(renewed=pb.LeaseRenewed(lease_until=timestamp(message.until)))
    assert isinstance(message, LostLease)  # noqa: S101 - Replaced never gets here
    return pb.LeaseTurnsResponse(
        revoked=pb.LeaseRevoked(
            run_id=message.run_id, current_fence=message.current_fence, reason=message.reason
        )
    )
