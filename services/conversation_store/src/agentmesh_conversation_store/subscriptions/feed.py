"""Subscriptions to all conversations of a tenant.

Every event has a position in its tenant's feed: 1, 2, 3, … in the order of the commits, since the
row that gives positions is the last one that a commit locks. So whoever reads on from a position
never misses what was begun earlier and committed later. Events that were removed meanwhile are
not delivered.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress

from agentmesh.conversation.v1 import stream_pb2
from meshkit.errors import MeshError
from meshkit.tasks import stop

from agentmesh_conversation_store.codec.stream_items import events_response, item_response
from agentmesh_conversation_store.codec.tokens import binding, resume_token, resumed_sequence
from agentmesh_conversation_store.codec.values import timestamp
from agentmesh_conversation_store.domain.access import SYSTEM, Caller
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.fanout.interface import EventsCommitted, Fanout
from agentmesh_conversation_store.storage.interface import EventFilter, FeedEvent, Storage

from .database import PatientReads
from .hub import BATCH_BYTES, BATCH_EVENTS

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.25


class TenantFeeds:
    """Hands out the feeds of tenants, and looks after those that somebody reads."""

    def __init__(
        self, storage: Storage, fanout: Fanout, *, heartbeat: float, head_check: float
    ) -> None:
        self._reads = PatientReads(storage)
        self._heartbeat = heartbeat
        self._head_check = head_check
        self._draining = asyncio.Event()
        self._readers: dict[str, set[_Reader]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        fanout.listen(EventsCommitted, self._hear)

    async def start(self) -> None:
        """Begins to look for what other replicas committed."""
        self._task = asyncio.create_task(self._look(), name="feed-check")

    async def stop(self) -> None:
        """Stops looking."""
        await stop(self._task)

    def drain(self) -> None:
        """Ends every feed with DRAINING; their clients go on elsewhere."""
        self._draining.set()
        for readers in self._readers.values():
            for reader in readers:
                reader.wake()

    async def subscribe(
        self,
        tenant: str,
        token: str,
        accepted: EventFilter,
        *,
        single_events: bool = False,
        caller: Caller = SYSTEM,
    ) -> AsyncIterator[bytes]:
        """Serialized responses of what the caller may read: what follows the token, or what happens
        from now on. Then the first one is a heartbeat, so that its reader can say from where."""
        bound = binding(tenant, "")
        position = resumed_sequence(token, bound) if token else None
        head = await self._head(tenant)
        if position is not None and position > head:
            raise Rejection(
                Reason.BEYOND_HEAD,
                f"the feed has no position {position} yet; it ends at {head}",
                head_sequence=str(head),
            )
        reader = _Reader(self, tenant, bound, head if position is None else position, accepted)
        reader.head = head
        reader.single_events = single_events
        reader.caller = caller
        readers = self._readers[tenant]
        readers.add(reader)
        try:
            if position is None:
                yield await reader.beat()
            async for response in reader.responses():
                yield response
        finally:
            readers.discard(reader)
            if not readers and self._readers.get(tenant) is readers:
                del self._readers[tenant]

    async def _head(self, tenant: str) -> int:
        heads = await self._reads.feed_heads([tenant])
        if heads is None:
            raise Rejection(Reason.DATABASE_UNAVAILABLE, "the store's database does not answer")
        return heads.get(tenant, 0)

    def _hear(self, notice: EventsCommitted) -> None:
        for reader in self._readers.get(notice.tenant, ()):
            reader.wake()

    async def _look(self) -> None:
        """The feeds of all tenants that are read here, in one query."""
        while True:
            await asyncio.sleep(self._head_check)
            if not self._readers:
                continue
            try:
                heads = await self._reads.feed_heads(list(self._readers))
            except Exception:
                # Nobody waits for this task: feeds would miss what other replicas commit.
                _log.exception("a look at the feeds failed")
                continue
            for tenant, head in (heads or {}).items():
                for reader in self._readers.get(tenant, ()):
                    reader.see(head)

    @property
    def reads(self) -> PatientReads:
        """The database."""
        return self._reads

    @property
    def draining(self) -> bool:
        """True once the server shuts down."""
        return self._draining.is_set()

    @property
    def heartbeat(self) -> float:
        """Seconds between signs of life."""
        return self._heartbeat


class _Reader:
    """One subscriber: a position in the feed."""

    def __init__(
        self, feeds: TenantFeeds, tenant: str, bound: bytes, position: int, accepted: EventFilter
    ) -> None:
        self.head = position
        self.single_events = False
        self.caller = SYSTEM
        self._feeds = feeds
        self._tenant = tenant
        self._bound = bound
        self._position = position
        self._accepted = accepted
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._next_beat = self._loop.time() + feeds.heartbeat

    def wake(self) -> None:
        """There may be news."""
        self._news.set()

    def see(self, head: int) -> None:
        """The feed reaches at least that far."""
        if head > self.head:
            self.head = head
            self._news.set()

    async def responses(self) -> AsyncIterator[bytes]:
        """The stream; raises when the server drains."""
        while True:
            if self._feeds.draining:
                raise MeshError.draining()
            self._news.clear()
            page = await self._feeds.reads.feed(
                self._tenant, self._position, BATCH_EVENTS, BATCH_BYTES, self.caller
            )
            if page is None:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self.head = max(self.head, page.head)
                for portion in self._portions(page.events):
                    self._position = portion[-1].position
                    passing = [one.event for one in portion if self._accepted.passes(one.event)]
                    if passing:
                        self._next_beat = self._loop.time() + self._feeds.heartbeat
                        yield events_response(passing, self._token())
                # Positions and their events are committed together: what is not there is removed,
                # or not for this reader.
                self._position = max(self._position, page.through)
                if page.through >= page.head:
                    await self._wait()
            if self._loop.time() >= self._next_beat:
                yield await self.beat()

    def _portions(self, batch: Sequence[FeedEvent]) -> Iterable[Sequence[FeedEvent]]:
        if self.single_events:
            return ([one] for one in batch)
        return (batch,) if batch else ()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._next_beat):
                await self._news.wait()

    async def beat(self) -> bytes:
        """A sign of life that says how far the reader is."""
        self._next_beat = self._loop.time() + self._feeds.heartbeat
        heartbeat = stream_pb2.Heartbeat(
            delivered_through=self._position,
            head_sequence=max(self.head, self._position),
            time=timestamp(await self._feeds.reads.now()),
        )
        return item_response(stream_pb2.StreamItem(heartbeat=heartbeat, resume_token=self._token()))

    def _token(self) -> str:
        return resume_token(self._bound, self._position)
