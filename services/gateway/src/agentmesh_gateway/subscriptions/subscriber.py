"""One subscription: catching up, then live."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from agentmesh.conversation.v1 import stream_pb2
from meshkit.eager import Begun
from meshkit.errors import MeshError, from_rpc_error

from agentmesh_gateway.upstream import STORE

from .hub import Hub, Portion
from .hubs import Hubs, Served
from .live import LiveMessage, discard_response
from .pace import Pace
from .patience import Patience
from .responses import Place, heartbeat_response, marks_place, place_after
from .run_check import RunCheck
from .store import ByteCall, StoreSubscriptions
from .wanted import Wanted

Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends one response; waits while the reader is slow."""


@dataclass(slots=True)
class _Sent:
    """How much of a live message went out, and under which fence."""

    fence: int
    pieces: int


class Subscriber:
    """Writes serialized responses until the subscription ends."""

    def __init__(
        self,
        hubs: Hubs,
        store: StoreSubscriptions,
        wanted: Wanted,
        pace: Pace,
        write: Write,
    ) -> None:
        self._hubs = hubs
        self._store = store
        self._wanted = wanted
        self._write = write
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._place = wanted.begin
        self._token = ""
        self._position = 0
        self._told = -1
        self._begun = False
        self._next_heartbeat = 0.0
        self._sent: dict[str, _Sent] = {}
        self._run_check = RunCheck(wanted)
        self._news = False
        self._hub: Hub | None = None
        self._waiter: asyncio.Future[Begun | None] | None = None
        self._catching_up: ByteCall | None = None
        self._failure: MeshError | None = None

    @property
    def conversation_id(self) -> str:
        """What it is about."""
        return self._wanted.conversation_id

    def wake(self) -> None:
        """There is news."""
        self._news = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(self._begin_writing())

    def _begin_writing(self) -> Begun | None:
        """What has come goes out at once: a reader would feel another round of the loop."""
        hub = self._hub
        if hub is None or self._failure is not None or self._position >= hub.head:
            return None
        return Begun(self._write_on(hub))

    async def _write_on(self, hub: Hub) -> None:
        portion = hub.after(self._position, self._wanted.filter)
        if portion is not None:
            await self._take(portion)

    def tick(self, now: float) -> None:
        """Time passes, by the loop's clock: wakes the subscriber if a sign of life is due."""
        if now >= self._next_heartbeat or self._run_check.pending:
            self.wake()

    def end(self, failure: MeshError) -> None:
        """Ends the stream with `failure`."""
        self._failure = self._failure or failure
        if self._catching_up is not None:
            self._catching_up.cancel()
        self.wake()

    def end_with_run(self) -> None:
        """Ends the stream when no run is under way any more, as if that had been asked for."""
        self._run_check.begin()
        self.wake()

    async def serve(self) -> None:
        """Writes the stream. Returns when `until` is reached; raises MeshError."""
        to_head = self._wanted.until == stream_pb2.SUBSCRIBE_UNTIL_HEAD
        found = None if to_head else self._hubs.find(self._wanted, self._place)
        served: Served | None = None
        if found is not None:
            served, self._place = found
        while True:
            if served is None:
                await self._catch_up()
                if to_head:
                    return
                served = self._hubs.join(self._wanted, self._place)
            if served is not None:
                self._hub = served.hub
                self._hub.subscribers.add(self)
                try:
                    if await self._follow(served):
                        return
                finally:
                    self._hub = None
                    self._hubs.leave(served, self)
                self._place, served = Place(self._position, self._token), None

    async def _catch_up(self) -> None:
        """Writes everything up to the head, undecoded, from a stream of this subscriber's own."""
        patience = Patience(self._pace.patience)
        while True:
            asked = self._place
            failure = await self._pass_through(patience)
            if failure is None and self._place.position is not None:
                self._told = self._place.position
                return
            if failure is None and self._place != asked:
                # It ended with events that passed a filter: what follows them says how far it is.
                continue
            failure = failure or MeshError.unavailable(STORE, "its stream ended early")
            # Whoever has seen nothing yet is better told at once.
            if not self._begun:
                raise failure
            await patience.wait(failure)

    async def _pass_through(self, patience: Patience) -> MeshError | None:
        """One stream until its end; why it broke, if it did."""
        self._raise_failure()
        call = self._catching_up = self._store.open(self._wanted.from_place(self._place))
        newest = b""
        try:
            async for response in call:
                patience.reset()
                if marks_place(response):
                    newest = response
                await self._write(response)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        except asyncio.CancelledError:
            # A cancelled call and a cancelled task look alike; only the task's is passed on.
            task = asyncio.current_task()
            if self._failure is None or (task is not None and task.cancelling()):
                raise
            raise self._failure from None
        finally:
            self._catching_up = None
            call.cancel()
            if newest:
                self._place, self._begun = place_after(newest, self._wanted.filter), True
        return None

    async def _follow(self, served: Served) -> bool:
        """Writes what the hub has and gets. True if the subscription is over, False if the hub
        no longer has what comes next."""
        hub = served.hub
        self._position, self._token = self._place.position or 0, self._place.token
        self._begun = True
        self._put_off_heartbeat()
        while True:
            self._news = False
            self._raise_failure()
            if self._position < hub.head:
                portion = hub.after(self._position, self._wanted.filter)
                if portion is None:
                    return False
                await self._take(portion)
            elif preview := self._next_preview(hub):
                await self._write(preview)
            elif hub.failure is not None:
                raise hub.failure
            elif await self._run_check.over(served, self._position):
                if self._told < self._position:
                    await self._beat(hub)
                return True
            elif not self._news:
                await self._wait()
            if self._loop.time() >= self._next_heartbeat:
                await self._beat(hub)

    async def _beat(self, hub: Hub) -> None:
        self._told = self._position
        self._put_off_heartbeat()
        await self._write(heartbeat_response(self._position, hub.head, self._token))

    async def _take(self, portion: Portion) -> None:
        if self._sent:
            for message_id in portion.message_ids:
                self._sent.pop(message_id, None)
        self._position, self._token = portion.last, portion.token
        if portion.response:
            if self._wanted.filter.passes_all:
                self._told = self._position
            self._put_off_heartbeat()
            await self._write(portion.response)

    def _next_preview(self, hub: Hub) -> bytes:
        """The next discard or pieces of a message; b"" if there is nothing now."""
        if not (self._sent or hub.live) or not self._wanted.deltas:
            return b""
        for message_id, sent in self._sent.items():
            message = hub.live.get(message_id)
            if message is None or message.fence > sent.fence:
                del self._sent[message_id]
                return discard_response(message_id, message.fence if message else sent.fence + 1)
        for message in hub.live:
            if self._wanted.filter.passes("message", message.run_id, message.agent):
                response = self._next_piece(message)
                if response:
                    return response
        return b""

    def _next_piece(self, message: LiveMessage) -> bytes:
        sent = self._sent.get(message.message_id)
        following = message.next_after(sent.pieces if sent else 0, self._position)
        if following is None:
            return b""
        pieces, response = following
        self._sent[message.message_id] = _Sent(message.fence, pieces)
        return response

    def _put_off_heartbeat(self) -> None:
        # Ticks come late by up to their distance.
        self._next_heartbeat = self._loop.time() + self._pace.heartbeat - self._pace.tick

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _wait(self) -> None:
        """Until there is news. No timer: thousands that are set and put off cost more than the
        ticks that all subscribers share."""
        waiter = self._waiter = self._loop.create_future()
        try:
            begun = await waiter
        finally:
            self._waiter = None
        if begun is not None:
            await begun
