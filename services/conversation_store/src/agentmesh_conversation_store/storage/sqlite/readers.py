"""Reading connections: they see committed data and never wait for the writer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.sql.plan import Plan

from .database import as_rejection, connect
from .driver import drive
from .writer import Clock

T = TypeVar("T")


class Readers:
    """A few threads with a connection each."""

    def __init__(self, path: Path, count: int, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(count, "sqlite-reader")
        self._closed = False

    async def run(self, plan: Plan[T]) -> T:
        """What the plan returned; it sees one snapshot."""
        if self._closed:
            raise Rejection(Reason.DATABASE_UNAVAILABLE, "the store's database is closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, plan)

    async def close(self) -> None:
        """Waits for what is being read."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        for connection in self._connections:
            connection.close()

    def _connection(self) -> sqlite3.Connection:
        """This thread's, from its first read on: not opened when the thread starts, since a pool
        of which one thread could not start takes no more work."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self._path, read_only=True)
            self._connections.append(connection)
        return connection

    def _read(self, plan: Plan[T]) -> T:
        try:
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                return drive(connection, plan, self._clock())
            finally:
                if connection.in_transaction:  # some errors end it
                    connection.execute("COMMIT")
        except sqlite3.Error as error:
            rejection = as_rejection(error)
            raise rejection or error from error
