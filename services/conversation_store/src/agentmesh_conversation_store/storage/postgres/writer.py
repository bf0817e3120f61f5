"""Writes in groups: operations that came in while others were being committed share the next
transaction.

A group never holds two operations on the same conversation or with the same request id, and
none that another group of this replica is busy with; those wait for the next one, in their
order. Each operation still succeeds or fails by itself: a refused one writes nothing, since
deciding comes before writing, and if the database refuses a group, its operations are tried one
by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.interface import CommitListener, Committed
from agentmesh_conversation_store.storage.sql.plan import Session
from agentmesh_conversation_store.storage.sql.unit import Item, Unit

from .database import TRY_AGAIN, Database
from .driver import Driver

_log = logging.getLogger(__name__)

MAX_GROUP = 128
MAX_LOOK_AHEAD = 1024
CROWD = 64
PATIENCE_SECONDS = 0.05
ATTEMPTS = 5

Key = tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Job:
    item: Item[Any]
    keys: frozenset[Key]
    future: asyncio.Future[Any]
    error: BaseException | None = None


class GroupWriter:
    """A few transactions at a time: one as a rule, since a larger group costs less than two small
    ones; another beside it when much is waiting, or when the first one takes long."""

    def __init__(self, database: Database, driver: Driver, unit: Unit, lanes: int) -> None:
        self._database = database
        self._driver = driver
        self._unit = unit
        self._lanes = lanes
        self._pending: deque[_Job] = deque()
        self._busy: set[Key] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._listeners: list[CommitListener] = []
        self._look: asyncio.Handle | None = None
        self._nudge: asyncio.TimerHandle | None = None
        self._impatient = False
        self._closed = True

    def start(self) -> None:
        """Begins to work."""
        self._closed = False

    def on_commit(self, listener: CommitListener) -> None:
        """Tells `listener` what each group committed."""
        self._listeners.append(listener)

    async def run(self, item: Item[Any]) -> Any:
        """What became of the operation, once its transaction is safe on disk."""
        if self._closed:
            raise Rejection(Reason.DATABASE_UNAVAILABLE, "the store's database is closed")
        keys: set[Key] = {("conversation", *item.key)}
        if item.request is not None:
            keys.add(("request", *item.request.key))
        loop = asyncio.get_running_loop()
        job = _Job(item, frozenset(keys), loop.create_future())
        self._pending.append(job)
        if self._look is None:
            # Whatever else arrives in this round of the loop belongs to the same group.
            self._look = loop.call_soon(self._start_groups)
        return await job.future

    async def close(self) -> None:
        """Finishes what was asked for, then stops."""
        self._closed = True
        while self._pending or self._running:
            self._start_groups()
            await asyncio.wait(set(self._running))
        if self._nudge is not None:
            self._nudge.cancel()

    def announce(self, committed: Sequence[Committed]) -> None:
        """Tells the listeners."""
        if not committed:
            return
        for listener in self._listeners:
            try:
                listener(committed)
            except Exception:  # a listener's defect must not cost the callers their answers
                _log.exception("a listener failed")

    def _start_groups(self) -> None:
        self._look = None
        while self._may_start() and (group := self._next_group()):
            task = asyncio.get_running_loop().create_task(self._carry_out(group))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if self._pending and self._nudge is None:
            loop = asyncio.get_running_loop()
            self._nudge = loop.call_later(PATIENCE_SECONDS, self._lose_patience)

    def _may_start(self) -> bool:
        crowded = len(self._pending) >= CROWD or self._impatient
        return not self._running or (crowded and len(self._running) < self._lanes)

    def _lose_patience(self) -> None:
        self._nudge = None
        self._impatient = True
        self._start_groups()
        self._impatient = False

    async def _carry_out(self, group: list[_Job]) -> None:
        try:
            await self._write(group)
        finally:
            for job in group:
                self._busy -= job.keys
            task = asyncio.current_task()
            if task is not None:
                self._running.discard(task)
            self._start_groups()

    def _next_group(self) -> list[_Job]:
        group: list[_Job] = []
        passed_over: list[_Job] = []
        taken: set[Key] = set()
        while self._pending and len(group) < MAX_GROUP and len(passed_over) < MAX_LOOK_AHEAD:
            job = self._pending.popleft()
            if job.keys & self._busy or job.keys & taken:
                passed_over.append(job)
            else:
                group.append(job)
            taken |= job.keys
        self._pending.extendleft(reversed(passed_over))
        for job in group:
            self._busy |= job.keys
        return group

    async def _write(self, group: list[_Job]) -> None:
        committed = await self._transact(group)
        if committed is None and len(group) > 1 and not isinstance(group[0].error, Rejection):
            # The database refused one of them. Never so after an outage: whether a group was
            # committed is not known then, and its operations must not be carried out twice.
            for job in group:
                job.error = None
                self.announce(await self._transact([job]) or ())
        self.announce(committed or ())
        for job in group:
            _answer(job)

    async def _transact(self, group: Sequence[_Job]) -> Sequence[Committed] | None:
        """What the group committed; None if the database failed, with the error in the jobs."""
        tenants = sorted({job.item.scope.tenant for job in group})
        for attempt in range(1, ATTEMPTS + 1):
            session = Session()
            items = [job.item for job in group]
            for item in items:
                item.result = item.rejection = None
            try:
                async with self._database.writing(tenants) as connection:
                    await self._driver.drive(connection, self._unit.carry_out(session, items))
            except Exception as error:  # whatever it was, the callers must hear of it
                if isinstance(error.__cause__, TRY_AGAIN) and attempt < ATTEMPTS:
                    continue
                for job in group:
                    job.error = error
                return None
            return session.committed
        return None


def _answer(job: _Job) -> None:
    if job.future.done():
        return
    error = job.error or job.item.rejection
    if error is not None:
        job.future.set_exception(error)
    else:
        job.future.set_result(job.item.result)
