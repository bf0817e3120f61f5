"""When keys were last used, written in batches and apart from the calls that use them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from meshkit.tasks import stop

from .domain.keys import ApiKey, KeyUse
from .domain.model import SECOND, Instant, Micros

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 15.0
APART = 60 * SECOND
"""A key's last use is written no more often than this."""
_MOST_PENDING = 10_000


class UseStorage(Protocol):
    """What this needs of a storage."""

    async def note_key_uses(self, uses: Sequence[KeyUse], apart: Micros) -> None:
        """Writes last uses that are at least `apart` later than those that are kept."""


class KeyUses:
    """Remembers uses and writes them every `flush_seconds`, and when it stops."""

    def __init__(self, storage: UseStorage, *, flush_seconds: float = FLUSH_SECONDS) -> None:
        self._storage = storage
        self._flush_seconds = flush_seconds
        self._pending: dict[tuple[str, str], Instant] = {}
        self._noted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def note(self, key: ApiKey, at: Instant) -> None:
        """A key was used; returns at once."""
        if key.last_used_at is not None and at - key.last_used_at < APART:
            return
        if len(self._pending) < _MOST_PENDING:
            self._pending[key.tenant, key.key_id] = at
            self._noted.set()

    async def start(self) -> None:
        """Begins to write."""
        self._task = asyncio.create_task(self._write_for_ever(), name="key-uses")

    async def stop(self) -> None:
        """Writes what is left."""
        await stop(self._task)
        await self._write()

    async def _write_for_ever(self) -> None:
        while True:
            await self._noted.wait()
            await asyncio.sleep(self._flush_seconds)
            await self._write()

    async def _write(self) -> None:
        uses = [KeyUse(*key, at) for key, at in self._pending.items()]
        if not uses:
            return
        try:
            await self._storage.note_key_uses(uses, APART)
        except Exception as error:
            # They stay for the next time; a use that is never written harms nobody.
            _log.warning("the last use of %d keys could not be written: %s", len(uses), error)
            return
        for use in uses:
            if self._pending.get((use.tenant, use.key_id)) == use.at:
                del self._pending[use.tenant, use.key_id]
        if not self._pending:
            self._noted.clear()
