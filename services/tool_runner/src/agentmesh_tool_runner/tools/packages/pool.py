"""The workers of a package: some warm, one call each at a time, replaced when they are spent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from agentmesh_tool_runner.rooms import Rooms

from .worker import Frame, Worker, WorkerDiedError, WorkerRules, start_worker

logger = logging.getLogger(__name__)


class WorkerPool:
    """At most `size` workers; calls beyond that wait, and tenants take turns."""

    def __init__(self, rules: WorkerRules, size: int, mark_prefix: str) -> None:
        self.rules = rules
        self._size = size
        self._mark_prefix = mark_prefix
        self._idle: list[Worker] = []
        self._rooms = Rooms()
        self._background: set[asyncio.Task[None]] = set()
        self._warming: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> Frame:
        """Starts the first worker; what it says of its tools. Raises WorkerDiedError."""
        worker = await start_worker(self.rules, self._mark_prefix)
        self._idle.append(worker)
        return worker.hello

    @asynccontextmanager
    async def worker(self, tenant: str) -> AsyncIterator[Worker]:
        """A worker for one call. One that is left unfit is killed, and replaced by a warm one.

        Raises WorkerDiedError if there is none and none can be started.
        """
        async with self._rooms.place(self.rules.package, tenant, self._size):
            worker = await self._take()
            try:
                yield worker
            finally:
                if worker.fit and worker.is_alive and not self._closing:
                    self._idle.append(worker)
                else:
                    await asyncio.shield(self._later(self._replace(worker)))

    async def _take(self) -> Worker:
        while True:
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive:
                    return worker
                await worker.kill()
            if self._warming is None or self._warming.done():
                return await start_worker(self.rules, self._mark_prefix)
            await asyncio.shield(self._warming)

    def _later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _replace(self, worker: Worker) -> None:
        """Kills a worker at once; the new one comes later."""
        await worker.kill()
        starts = self._warming is not None and not self._warming.done()
        if not (self._closing or self._idle or starts):
            self._warming = self._later(self._warm())

    async def _warm(self) -> None:
        try:
            self._idle.append(await start_worker(self.rules, self._mark_prefix))
        except WorkerDiedError as error:
            logger.warning("no new worker of %s: %s", self.rules.package, error)

    async def close(self) -> None:
        """Kills all workers; those that are busy are killed by their calls."""
        self._closing = True
        if self._warming is not None:
            self._warming.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        idle, self._idle = self._idle, []
        for worker in idle:
            await worker.kill()
