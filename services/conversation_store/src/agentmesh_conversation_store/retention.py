"""Keeps histories as short as they shall be, and removes what nobody can read any more."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from meshkit.tasks import stop

from .domain.history import DeleteConversation
from .domain.rejections import Reason, Rejection
from .storage.history import Outdated
from .storage.interface import Committed, Storage

_log = logging.getLogger(__name__)

MOST_ROWS = 1000
LEAST_ROWS = 50
FIRST_ROWS = 100
# What one step may keep others waiting. A step that takes longer is followed by a smaller one.
STEP_SECONDS = 0.025
# After each step others have this many times as long for themselves.
PAUSE = 2.0
_PAGE = 200


class BlobCollector(Protocol):
    """Removes blobs."""

    async def collect(self, tenant: str, digests: Sequence[str]) -> int:
        """Removes those of them that nothing refers to."""
        ...


class Retention:
    """Two loops: one looks now and then for histories that are too long or too old, the other
    removes rows when there are some to remove. Replicas may run them at once."""

    def __init__(
        self, storage: Storage, blobs: BlobCollector, *, look_seconds: float, poll_seconds: float
    ) -> None:
        self._storage = storage
        self._blobs = blobs
        self._look_seconds = look_seconds
        self._poll_seconds = poll_seconds
        self._rows = FIRST_ROWS
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        storage.on_commit(self._hear)

    async def start(self) -> None:
        """Begins."""
        self._tasks = [
            asyncio.create_task(self._keep(self._look, self._next_look), name="retention"),
            asyncio.create_task(self._keep(self.remove_all, self._next_work), name="removal"),
        ]

    async def stop(self) -> None:
        """Ends; a step under way is finished or undone."""
        await stop(*self._tasks)

    async def remove_all(self) -> int:
        """Removes all that nobody can read, in small steps; says how many rows that were."""
        total = 0
        while True:
            began = time.monotonic()
            removed = await self._storage.remove_some(self._rows)
            if removed is None:
                return total
            took = time.monotonic() - began
            total += removed.rows
            if took > STEP_SECONDS:
                self._rows = max(LEAST_ROWS, self._rows // 2)
            elif removed.rows >= self._rows and took < STEP_SECONDS / 2:
                self._rows = min(MOST_ROWS, 2 * self._rows)
            if removed.digests:
                await self._blobs.collect(removed.tenant, removed.digests)
            await asyncio.sleep(took * PAUSE)

    async def apply(self) -> int:
        """Cuts and deletes what is too long or too old now; says how many conversations."""
        changed = 0
        for tenant in await self._storage.tenants_to_keep_short():
            after = ""
            while page := await self._storage.outdated(tenant, after, _PAGE):
                for outdated in page:
                    changed += await self._shorten(tenant, outdated)
                after = page[-1].conversation_id
        return changed

    async def _shorten(self, tenant: str, outdated: Outdated) -> bool:
        name, idle_before = outdated.conversation_id, outdated.idle_before
        try:
            if idle_before is None:
                return await self._storage.cut_history(tenant, name)
            await self._storage.execute(DeleteConversation(tenant, name, idle_before))
        except Rejection as rejection:
            # Gone, or put under legal hold, since the list was made.
            if rejection.reason not in (Reason.NOT_FOUND, Reason.LEGAL_HOLD):
                raise
            return False
        return True

    async def _look(self) -> None:
        if changed := await self.apply():
            _log.info("retention shortened or removed %d conversations", changed)

    async def _next_look(self) -> None:
        # Replicas that were started at once shall not look at once.
        await asyncio.sleep(self._look_seconds * random.uniform(0.75, 1.25))  # noqa: S311

    async def _next_work(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_seconds):
                await self._work.wait()
        self._work.clear()

    async def _keep(
        self, work: Callable[[], Awaitable[object]], pause: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            try:
                await work()
            except Rejection as rejection:
                _log.warning("history stays for now: %s", rejection.message)
                await asyncio.sleep(1.0)
            except Exception:
                # Nobody waits for this task: it would end unheard.
                _log.exception("history stays for now")
                await asyncio.sleep(1.0)
            await pause()

    def _hear(self, group: Sequence[Committed]) -> None:
        if any(committed.deleted or committed.cut for committed in group):
            self._work.set()
