"""Removes the blobs that nothing refers to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from .interface import Blobs

YOUNG = timedelta(hours=1)
"""Younger blobs stay: the message that will refer to them may be on its way."""
_AT_ONCE = 500


class References(Protocol):
    """What is known of who refers to what."""

    async def referenced_blobs(self, tenant: str, digests: Sequence[str]) -> frozenset[str]:
        """Which of these blobs any event or workspace of the tenant refers to."""
        ...


class Collector:
    """Removes blobs. Whoever refers to one has uploaded or renewed it shortly before; so one that
    is old, and was not referred to a moment before its age was read, will not be missed."""

    def __init__(self, blobs: Blobs, references: References, young: timedelta = YOUNG) -> None:
        self._blobs = blobs
        self._references = references
        self._young = young

    async def collect(self, tenant: str, digests: Sequence[str]) -> int:
        """Removes those of a tenant's blobs that nothing refers to; says how many. Repeating it is
        harmless. What is too young is left to a later `sweep`."""
        used = await self._references.referenced_blobs(tenant, digests)
        removed = 0
        for digest in sorted(set(digests) - used):
            removed += await self._blobs.remove(tenant, digest, self._young)
        return removed

    async def sweep(self) -> int:
        """Does that for everything that is old, of all tenants."""
        waiting: dict[str, list[str]] = {}
        removed = 0
        async for blob in self._blobs.everything():
            if not self._old(blob.written_at):
                continue
            digests = waiting.setdefault(blob.tenant, [])
            digests.append(blob.digest)
            if len(digests) == _AT_ONCE:
                removed += await self.collect(blob.tenant, waiting.pop(blob.tenant))
        for tenant, digests in waiting.items():
            removed += await self.collect(tenant, digests)
        return removed

    def _old(self, written_at: datetime) -> bool:
        return datetime.now(UTC) - written_at >= self._young
