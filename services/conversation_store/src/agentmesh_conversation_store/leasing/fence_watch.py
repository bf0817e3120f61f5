"""Tells workers which fences were raised."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from meshkit.errors import MeshError
from meshkit.tasks import stop

from agentmesh_conversation_store.domain.model import SECOND, RaisedFence
from agentmesh_conversation_store.domain.rejections import Rejection
from agentmesh_conversation_store.fanout.interface import (
    Fanout,
    FencesRaised,
    NoticesMissed,
)
from agentmesh_conversation_store.storage.interface import Storage

_log = logging.getLogger(__name__)

REMEMBERED = 60 * SECOND
MAX_BEHIND = 10_000
_TOLD_KEPT = 16_384


class FenceWatch:
    """Raised fences of the last minute, then each one as it happens.

    Notices may be lost, so what was raised lately is also read every `check` seconds while
    somebody watches, and at once when notices are known to be missing.
    """

    def __init__(
        self, storage: Storage, fanout: Fanout, draining: asyncio.Event, *, check: float
    ) -> None:
        self._storage = storage
        self._draining = draining
        self._check = check
        self._watchers: set[asyncio.Queue[Sequence[RaisedFence]]] = set()
        self._told: OrderedDict[str, tuple[int, bool]] = OrderedDict()
        self._missed = asyncio.Event()
        self._away = False
        self._task: asyncio.Task[None] | None = None
        fanout.listen(FencesRaised, lambda raised: self._tell(raised.fences))
        fanout.listen(NoticesMissed, self._hear_of_a_gap)

    async def start(self) -> None:
        """Begins to look for what was not heard."""
        self._task = asyncio.create_task(self._look(), name="fence-check")

    async def stop(self) -> None:
        """Stops looking."""
        await stop(self._task)

    async def watch(self) -> AsyncIterator[Sequence[RaisedFence]]:
        """Never ends by itself. A watcher that falls far behind must come back: it is then told
        of the last minute again. The first item may be empty."""
        queue: asyncio.Queue[Sequence[RaisedFence]] = asyncio.Queue()
        self._watchers.add(queue)
        ending = asyncio.create_task(self._draining.wait())
        getting: asyncio.Task[Sequence[RaisedFence]] | None = None
        try:
            yield await self._lately()
            while True:
                getting = asyncio.create_task(queue.get())
                await asyncio.wait({getting, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    raise MeshError.draining()
                yield getting.result()
                if queue.qsize() > MAX_BEHIND:
                    raise MeshError.overloaded("the watcher fell behind", retry_after=0.1)
        finally:
            self._watchers.discard(queue)
            ending.cancel()
            if getting is not None:
                getting.cancel()

    def _hear_of_a_gap(self, notice: NoticesMissed) -> None:
        if notice.conversations is None:
            self._missed.set()

    def _tell(self, fences: Sequence[RaisedFence]) -> None:
        """Each fence once, and none that a higher one has overtaken. That a run rests under a
        fence is told after the fence."""
        news = [
            raised
            for raised in fences
            if (raised.fence, raised.rests) > self._told.get(raised.run_id, (0, False))
        ]
        for raised in news:
            self._told[raised.run_id] = (raised.fence, raised.rests)
            self._told.move_to_end(raised.run_id)
        while len(self._told) > _TOLD_KEPT:
            self._told.popitem(last=False)
        if news:
            for queue in self._watchers:
                queue.put_nowait(news)

    async def _lately(self) -> Sequence[RaisedFence]:
        return await self._storage.raised_fences(await self._storage.now() - REMEMBERED)

    async def _look(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._check):
                    await self._missed.wait()
            self._missed.clear()
            if not self._watchers:
                continue
            try:
                self._tell(await self._lately())
            except Rejection as rejection:
                if not self._away:
                    self._away = True
                    _log.warning("raised fences cannot be read: %s", rejection)
                # Not at once again, although notices may be missing.
                await asyncio.sleep(self._check)
            except Exception:
                _log.exception("a look at the raised fences failed")
                await asyncio.sleep(self._check)
            else:
                self._away = False
