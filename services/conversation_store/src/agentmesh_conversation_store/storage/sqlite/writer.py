"""One thread that writes: operations that came in meanwhile share one transaction.

Each operation still succeeds or fails by itself: what a refused one wrote is undone up to its
savepoint. If the database fails in the middle of a group, the group is rolled back
and its operations are tried one by one, so that one bad apple spoils nothing.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.interface import CommitListener, Committed
from agentmesh_conversation_store.storage.sql.plan import Plan, Session

from .database import as_rejection, connect
from .driver import drive

T = TypeVar("T")
Clock = Callable[[], Instant]

MAX_GROUP = 256
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[Session], Plan[T]]
    future: asyncio.Future[T]
    result: T | None = None
    error: BaseException | None = None


class Writer:
    """Runs operations on the writing connection, in the order they came."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._last_now: Instant = 0
        self._queue: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._listeners: list[CommitListener] = []
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._connection: sqlite3.Connection

    def connect(self) -> None:
        """Opens the connection. Called before `start`: a thread that cannot leaves everybody
        waiting."""
        self._connection = connect(self._path)

    def start(self) -> None:
        """Begins to work for the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def on_commit(self, listener: CommitListener) -> None:
        """Tells `listener`, on the loop, what each group committed."""
        self._listeners.append(listener)

    async def run(self, work: Callable[[Session], Plan[T]]) -> T:
        """What the plan returned, once its transaction is safe on disk."""
        if self._closed or self._loop is None:
            raise Rejection(Reason.DATABASE_UNAVAILABLE, "the store's database is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Job(work, future))
        return await future

    async def close(self) -> None:
        """Finishes what was asked for, then stops."""
        if self._closed or self._loop is None:
            return
        self._closed = True
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        connection = self._connection
        try:
            while (group := self._next_group()) is not None:
                self._write(connection, group)
        finally:
            connection.close()

    def _next_group(self) -> list[_Job[Any]] | None:
        first = self._queue.get()
        if first is None:
            return None
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)
                break
            group.append(job)
        return group

    def _write(self, connection: sqlite3.Connection, group: list[_Job[Any]]) -> None:
        committed = self._transact(connection, group)
        if committed is None and len(group) > 1:
            committed = []
            for job in group:
                job.error = None
                committed += self._transact(connection, [job]) or []
        self._hand_over(group, committed or [])

    def _transact(
        self, connection: sqlite3.Connection, group: Sequence[_Job[Any]]
    ) -> list[Committed] | None:
        """What the group committed; None if the database failed, with the error in the jobs."""
        self._last_now = max(self._last_now, self._clock())
        session = Session()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                self._carry_out(connection, session, job)
            connection.execute("COMMIT")
        except Exception as error:  # whatever it was, the loop that waits must hear of it
            self._roll_back(connection)
            reason = as_rejection(error) if isinstance(error, sqlite3.Error) else None
            for job in group:
                job.error = reason or error
            return None
        return session.committed

    def _carry_out(self, connection: sqlite3.Connection, session: Session, job: _Job[Any]) -> None:
        heard = len(session.committed)
        connection.execute("SAVEPOINT operation")
        try:
            job.result = drive(connection, job.work(session), self._last_now)
        except Rejection as rejection:
            job.error = rejection
            connection.execute("ROLLBACK TO operation")
            del session.committed[heard:]
        connection.execute("RELEASE operation")

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            _log.exception("a failed transaction could not be rolled back")

    def _hand_over(self, group: Sequence[_Job[Any]], committed: Sequence[Committed]) -> None:
        assert self._loop is not None  # noqa: S101 - set before the thread starts
        try:
            self._loop.call_soon_threadsafe(self._deliver, group, committed)
        except RuntimeError:
            _log.warning("the loop closed before %d operations were answered", len(group))

    def _deliver(self, group: Sequence[_Job[Any]], committed: Sequence[Committed]) -> None:
        if committed:
            for listener in self._listeners:
                try:
                    listener(committed)
                except Exception:  # a listener's defect must not cost the callers their answers
                    _log.exception("a listener failed")
        for job in group:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
