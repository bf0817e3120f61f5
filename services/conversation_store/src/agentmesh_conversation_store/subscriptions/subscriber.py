"""One subscription: replay, then live."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from agentmesh.conversation.v1 import stream_pb2
from meshkit.eager import Begun
from meshkit.errors import MeshError

from agentmesh_conversation_store.codec.stream_items import events_response, item_response
from agentmesh_conversation_store.codec.values import timestamp
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.rejections import Reason, Rejection, not_found
from agentmesh_conversation_store.fanout.interface import LiveDelta
from agentmesh_conversation_store.storage.interface import EventFilter

from .database import PatientReads
from .hub import BATCH_BYTES, BATCH_EVENTS, ConversationHub
from .live import LiveMessage

Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends one response; waits while the reader is slow."""

_KEPT_SERIALIZED = 8
_FIRST_RETRY = 0.1
_LAST_RETRY = 2.0


class Until(Enum):
    """For how long."""

    FOREVER = 1
    HEAD = 2
    RUN_END = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a subscriber asked for. `position` is the sequence after which it begins."""

    position: int
    until: Until
    filter: EventFilter
    deltas: bool


@dataclass(slots=True)
class _Sent:
    """Which piece of a live message goes out next, and under which fence."""

    fence: int
    next_piece: int


class Subscriber:
    """Writes serialized responses."""

    def __init__(
        self,
        hub: ConversationHub,
        reads: PatientReads,
        wanted: Wanted,
        heartbeat: float,
        draining: asyncio.Event,
        write: Write,
    ) -> None:
        self._hub = hub
        self._reads = reads
        self._wanted = wanted
        self._heartbeat = heartbeat
        self._draining = draining
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._position = wanted.position
        self._last_event = hub.head.sequence if wanted.until is Until.HEAD else 0
        self._told = -1
        self._next_heartbeat = self._loop.time() + heartbeat
        self._sent: dict[str, _Sent] = {}
        self._retry_at = 0.0
        self._retry_delay = _FIRST_RETRY
        self._news = False
        self._waiter: asyncio.Future[Begun | None] | None = None

    def wake(self) -> None:
        """There is news."""
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._begin_writing())

    def _begin_writing(self) -> Begun | None:
        """What has come goes out at once: a reader would feel another round of the loop."""
        hub = self._hub
        over = self._draining.is_set() or hub.removed or self._position < hub.head.oldest - 1
        if over or self._position >= hub.head.sequence:
            return None
        return Begun(self._write_on())

    async def _write_on(self) -> None:
        events = self._from_ring()
        if events:
            await self._write(events)

    async def serve(self) -> None:
        """Writes the stream. Returns when `until` is reached; raises when the server drains."""
        while True:
            self._news = False
            if self._draining.is_set():
                raise MeshError.draining()
            if self._hub.removed:
                raise not_found("conversation", self._hub.conversation_id)
            if self._position < self._hub.head.oldest - 1:
                raise history_removed(self._hub.conversation_id, self._hub.head.oldest)
            if self._finished():
                if self._told < self._position:
                    await self._beat()
                return
            behind = self._position < self._hub.head.sequence
            if behind and self._loop.time() >= self._retry_at:
                events = self._from_ring() or await self._from_log()
                if events:
                    await self._write(events)
            elif not behind and (preview := self._next_preview()) is not None:
                await self._write(preview)
            elif not self._news and not await self._wait(retrying=behind):
                await self._beat()
                continue
            if self._loop.time() >= self._next_heartbeat:
                await self._beat()

    def _finished(self) -> bool:
        if self._wanted.until is Until.HEAD:
            return self._position >= self._last_event
        at_head = self._position >= self._hub.head.sequence
        return self._wanted.until is Until.RUN_END and at_head and not self._hub.head.active

    def _from_ring(self) -> bytes:
        """The next events, if the ring has them. Empty: it has not, or all were filtered out."""
        if self._wanted.filter.passes_all:
            shared = self._hub.response_after(self._position)
            if shared is None:
                return b""
            for message_id in shared.message_ids:
                self._sent.pop(message_id, None)
            self._advance(shared.last_sequence)
            return shared.data
        return self._passing(self._hub.after(self._position))

    async def _from_log(self) -> bytes:
        if self._position >= self._hub.head.sequence:
            return b""
        hub = self._hub
        events = await self._reads.events(
            hub.tenant, hub.conversation_id, self._position, BATCH_EVENTS, BATCH_BYTES
        )
        if events is None:
            self._retry_at = self._loop.time() + self._retry_delay
            self._retry_delay = min(_LAST_RETRY, 2 * self._retry_delay)
            return b""
        self._retry_at, self._retry_delay = 0.0, _FIRST_RETRY
        # Its notices may have been lost: messages that it finishes must not be shown again.
        hub.settle_log(events)
        if not events or events[0].sequence != self._position + 1:
            await self._reject_hole(events)
            return b""
        return self._passing(events)

    async def _reject_hole(self, events: Sequence[StoredEvent]) -> None:
        """What comes next is not there: it was removed, and perhaps all with it."""
        hub = self._hub
        if events:
            raise history_removed(hub.conversation_id, events[0].sequence)
        key = (hub.tenant, hub.conversation_id)
        heads = await self._reads.heads([key])
        if heads is not None and key not in heads:
            raise not_found("conversation", hub.conversation_id)
        if heads is not None and self._position < heads[key].oldest - 1:
            raise history_removed(hub.conversation_id, heads[key].oldest)

    def _passing(self, batch: Sequence[StoredEvent]) -> bytes:
        if not batch:
            return b""
        for event in batch:
            self._sent.pop(event.message_id, None)
        self._position = batch[-1].sequence
        passing = [event for event in batch if self._wanted.filter.passes(event)]
        if not passing:
            return b""
        if self._wanted.filter.passes_all:
            self._told = self._position
        # Otherwise only a heartbeat says how far this is: more may have been cut out behind them.
        self._put_off_heartbeat()
        return events_response(passing, self._hub.token(self._position))

    def _advance(self, sequence: int) -> None:
        self._position = sequence
        self._told = sequence
        self._put_off_heartbeat()

    def _put_off_heartbeat(self) -> None:
        self._next_heartbeat = self._loop.time() + self._heartbeat

    def _next_preview(self) -> bytes | None:
        """The next discard or delta; None if there is none now."""
        if not self._wanted.deltas:
            return None
        for message_id, sent in self._sent.items():
            message = self._hub.live.get(message_id)
            if message is None or message.fence > sent.fence:
                del self._sent[message_id]
                fence = message.fence if message else sent.fence + 1
                return _discard(message_id, fence)
        for message in self._hub.live:
            if not self._wants(message):
                continue
            sent = self._sent.get(message.message_id) or _Sent(message.fence, 0)
            for end, delta in message.joined(sent.next_piece, self._position):
                start, sent.next_piece = sent.next_piece, end
                self._sent[message.message_id] = sent
                return self._serialized(message, start, end, delta)
        return None

    def _wants(self, message: LiveMessage) -> bool:
        accepted = self._wanted.filter
        return (
            (not accepted.kinds or "message" in accepted.kinds)
            and (not accepted.run_ids or message.run_id in accepted.run_ids)
            and (not accepted.agents or message.agent in accepted.agents)
        )

    def _serialized(self, message: LiveMessage, start: int, end: int, delta: LiveDelta) -> bytes:
        """Serialized once for all subscribers that keep pace."""
        data = message.serialized.get((start, end))
        if data is None:
            data = item_response(_delta(self._hub.conversation_id, delta))
            while len(message.serialized) >= _KEPT_SERIALIZED:
                del message.serialized[next(iter(message.serialized))]
            message.serialized[start, end] = data
        return data

    async def _beat(self) -> None:
        now = await self._reads.now()
        self._advance(self._position)
        heartbeat = stream_pb2.Heartbeat(
            delivered_through=self._position,
            head_sequence=max(self._hub.head.sequence, self._position),
            time=timestamp(now),
        )
        token = self._hub.token(self._position)
        item = stream_pb2.StreamItem(heartbeat=heartbeat, resume_token=token)
        await self._write(item_response(item))

    async def _wait(self, *, retrying: bool) -> bool:
        """True if there is something to do, False if it is time for a sign of life."""
        until = self._next_heartbeat
        if retrying:
            until = min(until, self._retry_at)
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_at(until, _resolve, waiter)
        try:
            begun = await waiter
        finally:
            timer.cancel()
            self._waiter = None
        if begun is not None:
            await begun
        return self._news or self._draining.is_set() or until < self._next_heartbeat


def history_removed(conversation_id: str, oldest: int) -> Rejection:
    """What was asked for is gone."""
    return Rejection(
        Reason.HISTORY_REMOVED,
        f"{conversation_id} has no events before {oldest} any more",
        oldest_sequence=str(oldest),
    )


def _resolve(waiter: asyncio.Future[Begun | None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _discard(message_id: str, fence: int) -> bytes:
    discard = stream_pb2.DeltaDiscard(message_id=message_id, fence=fence)
    return item_response(stream_pb2.StreamItem(discard=discard))


def _delta(conversation_id: str, delta: LiveDelta) -> stream_pb2.StreamItem:
    return stream_pb2.StreamItem(
        delta=stream_pb2.Delta(
            conversation_id=conversation_id,
            run_id=delta.run_id,
            turn=delta.turn,
            message_id=delta.message_id,
            agent=delta.agent,
            kind=stream_pb2.DeltaKind.ValueType(delta.kind),
            text=delta.text,
            fence=delta.fence,
            first_index=delta.first_index,
            last_index=delta.last_index,
            after_sequence=delta.after_sequence,
            tool=delta.tool,
        )
    )
