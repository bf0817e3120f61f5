"""Tells workers which fences were raised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from meshkit.errors import MeshError

from agentmesh_conversation_store.domain.model import SECOND, RaisedFence
from agentmesh_conversation_store.fanout.interface import Fanout, FencesRaised, Notice
from agentmesh_conversation_store.storage.interface import Storage

REMEMBERED = 60 * SECOND
MAX_BEHIND = 10_000


class FenceWatch:
    """Raised fences of the last minute, then each one as it happens."""

    def __init__(self, storage: Storage, fanout: Fanout, draining: asyncio.Event) -> None:
        self._storage = storage
        self._draining = draining
        self._watchers: set[asyncio.Queue[Sequence[RaisedFence]]] = set()
        fanout.listen(self._hear)

    async def watch(self) -> AsyncIterator[Sequence[RaisedFence]]:
        """Never ends by itself. A watcher that falls far behind must come back: it is then told
        of the last minute again. The first item may be empty."""
        queue: asyncio.Queue[Sequence[RaisedFence]] = asyncio.Queue()
        self._watchers.add(queue)
        ending = asyncio.create_task(self._draining.wait())
        try:
            yield await self._storage.raised_fences(await self._storage.now() - REMEMBERED)
            while True:
                getting = asyncio.ensure_future(queue.get())
                await asyncio.wait({getting, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    raise MeshError.draining()
                yield getting.result()
                if queue.qsize() > MAX_BEHIND:
                    raise MeshError.overloaded("the watcher fell behind", retry_after=0.1)
        finally:
            ending.cancel()
            self._watchers.discard(queue)

    def _hear(self, notice: Notice) -> None:
        if isinstance(notice, FencesRaised):
            for queue in self._watchers:
                queue.put_nowait(notice.fences)
