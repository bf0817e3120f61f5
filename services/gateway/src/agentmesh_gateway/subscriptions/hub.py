"""What the subscribers of one conversation share: one stream from the store."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshkit.errors import MeshError

from .live import LiveMessages
from .responses import (
    Batch,
    Filter,
    Place,
    SlicedEvent,
    events_response,
    read_item,
)

logger = logging.getLogger(__name__)

RING_EVENTS = 512
RING_BYTES = 1024 * 1024
JOINED_EVENTS = 256
JOINED_BYTES = 256 * 1024
KEPT_PORTIONS = 16


class Wakeable(Protocol):
    """Somebody who waits for news."""

    def wake(self) -> None:
        """There is news."""
        ...

    def tick(self, now: float) -> None:
        """Time passes, by the loop's clock."""
        ...


@dataclass(frozen=True, slots=True)
class Portion:
    """What comes next for somebody: a response, empty if all was filtered out."""

    last: int
    token: str
    message_ids: tuple[str, ...]
    response: bytes


class Hub:
    """The newest events of one conversation, its live messages, and who watches it.

    `head` is the newest event that came from the store; the ring ends with it and has no holes.
    `run_ended_at` is the newest event that ended a run, of those that came.
    """

    def __init__(self, tenant: str, conversation_id: str, place: Place) -> None:
        self.tenant = tenant
        self.conversation_id = conversation_id
        self.head = place.position or 0
        self.token = place.token
        self.run_ended_at = 0
        self.live = LiveMessages()
        self.subscribers: set[Wakeable] = set()
        self.failure: MeshError | None = None
        self._ring: list[Batch] = []
        self._ring_events = 0
        self._ring_bytes = 0
        self._places = {place.token: self.head}
        self._portions: dict[int, Portion] = {}

    def take(self, response: bytes) -> None:
        """The store's next response."""
        item = read_item(response)
        kind = item.WhichOneof("item")
        if kind == "events":
            self._take_events(Batch(item.events.events, item.resume_token, response))
        elif kind == "delta":
            if self.live.add(item.delta, response):
                self._wake()
        elif kind == "discard" and self.live.discard(item.discard.message_id, item.discard.fence):
            self._wake()

    def fail(self, failure: MeshError) -> None:
        """The store will say no more."""
        self.failure = failure
        self._wake()

    def covers(self, position: int) -> bool:
        """Whether everything after `position` is here or will come."""
        return position >= self.head or (bool(self._ring) and self._ring[0].first <= position + 1)

    def place_of(self, token: str) -> int | None:
        """The position that a resume token stands for, if it is one of the newest."""
        return self._places.get(token)

    def after(self, position: int, accepted: Filter) -> Portion | None:
        """What comes next behind `position`; None if the ring has no longer got it."""
        portion = self._portions.get(position) if accepted.passes_all else None
        if portion is not None:
            return portion
        batches = self._batches_after(position)
        if not batches:
            return None
        portion = _portion(batches, position, accepted)
        if accepted.passes_all:
            while len(self._portions) >= KEPT_PORTIONS:
                del self._portions[next(iter(self._portions))]
            self._portions[position] = portion
        return portion

    def _batches_after(self, position: int) -> Sequence[Batch]:
        start = bisect_left(self._ring, position + 1, key=_last)
        if start == len(self._ring) or self._ring[start].first > position + 1:
            return ()
        end, events, size = start + 1, self._ring[start].count, len(self._ring[start].data)
        for batch in self._ring[start + 1 :]:
            events, size = events + batch.count, size + len(batch.data)
            if events > JOINED_EVENTS or size > JOINED_BYTES:
                break
            end += 1
        return self._ring[start:end]

    def tick(self, now: float) -> None:
        """Tells the subscribers that time passes."""
        for subscriber in self.subscribers:
            subscriber.tick(now)

    def _take_events(self, batch: Batch) -> None:
        if batch.last <= self.head:
            return
        if batch.first > self.head + 1:
            # Whoever needs what is missing reads it from the store.
            logger.warning("events of %s are missing after %d", self.conversation_id, self.head)
            self._drop(len(self._ring))
        elif batch.first <= self.head:
            batch = _rest_of(batch, self.head)
        self._ring.append(batch)
        self._ring_events += batch.count
        self._ring_bytes += len(batch.data)
        self.head, self.token = batch.last, batch.token
        self._places[batch.token] = batch.last
        # What everybody needs who has kept up.
        newest = Portion(batch.last, batch.token, batch.message_ids, batch.data)
        self._portions = {batch.first - 1: newest}
        if self._ring_events > RING_EVENTS or self._ring_bytes > RING_BYTES:
            self._trim()
        self.run_ended_at = batch.run_ended_at or self.run_ended_at
        self.live.finish(batch.message_ids)
        self._wake()

    def _trim(self) -> None:
        count = 0
        events, size = self._ring_events, self._ring_bytes
        while (events > RING_EVENTS or size > RING_BYTES) and count < len(self._ring) - 1:
            events -= self._ring[count].count
            size -= len(self._ring[count].data)
            count += 1
        self._drop(count)

    def _drop(self, count: int) -> None:
        for batch in self._ring[:count]:
            self._ring_events -= batch.count
            self._ring_bytes -= len(batch.data)
            self._places.pop(batch.token, None)
        del self._ring[:count]

    def _wake(self) -> None:
        for subscriber in self.subscribers:
            subscriber.wake()


def _last(batch: Batch) -> int:
    return batch.last


def _rest_of(batch: Batch, position: int) -> Batch:
    fresh = [event for event in batch.events if event.sequence > position]
    response = events_response(fresh, batch.token)
    return Batch(read_item(response).events.events, batch.token, response)


def _portion(batches: Sequence[Batch], position: int, accepted: Filter) -> Portion:
    last, token = batches[-1].last, batches[-1].token
    events = list(_events_after(batches, position))
    message_ids = tuple(event.message_id for event in events if event.message_id)
    passing = [event for event in events if accepted.passes(event.kind, event.run_id, event.agent)]
    if not passing:
        return Portion(last, token, message_ids, b"")
    whole = len(batches) == 1 and len(passing) == batches[0].count
    response = batches[0].data if whole else events_response(passing, token)
    return Portion(last, token, message_ids, response)


def _events_after(batches: Sequence[Batch], position: int) -> Iterator[SlicedEvent]:
    for batch in batches:
        for event in batch.events:
            if event.sequence > position:
                yield event
