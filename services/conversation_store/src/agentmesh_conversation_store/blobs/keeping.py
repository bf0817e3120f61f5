"""Keeps the place for blobs tidy while the store runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from meshkit.tasks import stop

from agentmesh_conversation_store.domain.rejections import Rejection

from .collecting import Collector
from .interface import Blobs

logger = logging.getLogger(__name__)

UPLOADS_EVERY_SECONDS = 600.0
COLLECT_EVERY_SECONDS = 6 * 3600.0


class Housekeeping:
    """Removes what broken uploads left, at the start and every ten minutes; every six hours,
    what was uploaded and never referred to. Replicas may do so at the same time."""

    def __init__(self, blobs: Blobs, collector: Collector) -> None:
        self._blobs = blobs
        self._collector = collector
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins; does not wait for the place to answer: the log is served without it."""
        self._tasks = [
            asyncio.create_task(self._uploads()),
            asyncio.create_task(self._collect()),
        ]

    async def stop(self) -> None:
        """Ends."""
        await stop(*self._tasks)

    async def _uploads(self) -> None:
        while True:
            await _tidy("uploads that were never finished", self._blobs.sweep)
            await asyncio.sleep(UPLOADS_EVERY_SECONDS)

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_EVERY_SECONDS)
            await _tidy("blobs that nothing refers to", self._collector.sweep)


async def _tidy(what: str, sweep: Callable[[], Awaitable[int]]) -> None:
    try:
        if swept := await sweep():
            logger.info("removed %d %s", swept, what)
    except Rejection as rejection:
        logger.warning("%s stay for now: %s", what, rejection)
    except Exception:
        # Nobody waits for this task: it would end unheard, and leftovers would pile up.
        logger.exception("%s stay for now", what)
