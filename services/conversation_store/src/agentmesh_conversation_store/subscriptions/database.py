"""The database as subscribers see it: it may be away for a while, and they go on then."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from agentmesh_conversation_store.domain.access import Caller
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import SECOND, Instant
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.interface import FeedPage, Head, Storage

_log = logging.getLogger(__name__)

# Shorter than what the longest heartbeat leaves: a read that hangs must not silence a subscriber.
READ_SECONDS = 4.0

T = TypeVar("T")


class PatientReads:
    """Reads that answer None while the database is away, which is logged once.

    Any other refusal is raised as it is.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._away = False
        self._clock: tuple[Instant, float] | None = None

    async def events(
        self, tenant: str, conversation_id: str, after: int, limit: int, max_bytes: int
    ) -> Sequence[StoredEvent] | None:
        """See `Storage`."""
        reading = self._storage.events(tenant, conversation_id, after, limit, max_bytes)
        return await self._answer(reading)

    async def tail(
        self, tenant: str, conversation_id: str, limit: int
    ) -> tuple[Head, Sequence[StoredEvent]] | None:
        """See `Storage`."""
        return await self._answer(self._storage.tail(tenant, conversation_id, limit))

    async def heads(
        self, conversations: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], Head] | None:
        """See `Storage`."""
        return await self._answer(self._storage.heads(conversations))

    async def feed(
        self, tenant: str, after: int, limit: int, max_bytes: int, caller: Caller
    ) -> FeedPage | None:
        """See `Storage`."""
        return await self._answer(self._storage.feed(tenant, after, limit, max_bytes, caller))

    async def feed_heads(self, tenants: Sequence[str]) -> dict[str, int] | None:
        """See `Storage`."""
        return await self._answer(self._storage.feed_heads(tenants))

    async def now(self) -> Instant:
        """The database's clock, kept going here while it is away."""
        # A storage may know the time by itself, so this says nothing of whether it is there.
        try:
            async with asyncio.timeout(READ_SECONDS):
                self._clock = await self._storage.now(), time.monotonic()
        except Rejection as rejection:
            if rejection.reason is not Reason.DATABASE_UNAVAILABLE:
                raise
        except TimeoutError:
            pass
        if self._clock is None:
            return round(time.time() * SECOND)
        instant, heard_at = self._clock
        return instant + round((time.monotonic() - heard_at) * SECOND)

    async def _answer(self, reading: Awaitable[T]) -> T | None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                answer = await reading
        except Rejection as rejection:
            if rejection.reason is not Reason.DATABASE_UNAVAILABLE:
                raise
            self._failed(rejection.message)
            return None
        except TimeoutError:
            self._failed(f"no answer within {READ_SECONDS:g} s")
            return None
        if self._away:
            self._away = False
            _log.info("subscribers read from the database again")
        return answer

    def _failed(self, why: str) -> None:
        if not self._away:
            self._away = True
            _log.warning("subscribers wait for the database: %s", why)
