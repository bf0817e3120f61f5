"""The storage interface on one SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from agentmesh_conversation_store.domain.audit_keys import AuditKeys
from agentmesh_conversation_store.domain.changes import Command
from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.domain.search import words_of
from agentmesh_conversation_store.storage.interface import (
    CommitListener,
    EventCodec,
)
from agentmesh_conversation_store.storage.requests import Request
from agentmesh_conversation_store.storage.sql import audit_chain
from agentmesh_conversation_store.storage.sql.audited import Recorder
from agentmesh_conversation_store.storage.sql.plan import Plan, Session
from agentmesh_conversation_store.storage.sql.storage import SqlStorage, Tenants
from agentmesh_conversation_store.storage.sql.unit import Item, Unit

from .database import as_rejection, connect, migrate
from .driver import drive
from .readers import Readers
from .words import Fts5Words
from .writer import Clock, Writer

R = TypeVar("R")
T = TypeVar("T")
DATABASE_FILE = "store.sqlite3"
_MARKED_AUDIT = 12
"""The schema from which on audit records are marked."""


def system_clock() -> Instant:
    """This machine's clock, in microseconds since 1970."""
    return time.time_ns() // 1000


class SqliteStorage(SqlStorage):
    """Everything durable in one file: a writer that commits in groups, and readers beside it.
    Without keys audit records are good as long as this storage lives."""

    _words = Fts5Words()

    def __init__(
        self,
        path: Path,
        codec: EventCodec,
        *,
        readers: int = 2,
        clock: Clock = system_clock,
        audit_keys: AuditKeys | None = None,
    ) -> None:
        self._path = path
        self._codec = codec
        self._clock = clock
        self._audit_keys = audit_keys or AuditKeys.random()
        self._recorder = Recorder(self._audit_keys)
        self._unit = Unit(codec, self._words, self._recorder)
        self._writer = Writer(path, clock)
        self._readers = Readers(path, readers, clock)

    async def open(self) -> None:
        """Creates the file if need be and brings its schema up to date."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._prepare)
        except sqlite3.Error as error:
            raise as_rejection(error) or error from error
        self._writer.start()

    def _words_of(self, data: bytes) -> str:
        return self._words.text(words_of(self._codec.words(data)))

    def _prepare(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = connect(self._path)
        try:
            migrate(connection, self._words_of, self._migrated)
        finally:
            connection.close()
        self._writer.connect()

    def _migrated(self, connection: sqlite3.Connection, before: int) -> None:
        if 0 < before < _MARKED_AUDIT:
            drive(connection, audit_chain.cut_over(self._audit_keys), self._clock())

    async def close(self) -> None:
        """Finishes what was begun."""
        await self._writer.close()
        await self._readers.close()

    def on_commit(self, listener: CommitListener) -> None:
        """See `Storage`."""
        self._writer.on_commit(listener)

    async def now(self) -> Instant:
        """See `Storage`."""
        return self._clock()

    async def execute(self, command: Command[R]) -> R:
        """See `Storage`."""
        item = Item(command)
        return cast(R, await self._writer.run(lambda session: self._one(session, item)))

    async def execute_once(self, command: Command[R], request: Request[R]) -> bytes:
        """See `Storage`."""
        item = Item(command, request)
        return cast(bytes, await self._writer.run(lambda session: self._one(session, item)))

    def _one(self, session: Session, item: Item[Any]) -> Plan[Any]:
        item.result = item.rejection = None
        yield from self._unit.carry_out(session, [item])
        if item.rejection is not None:
            raise item.rejection
        return item.result

    async def _read(self, tenants: Tenants, plan: Plan[T], *, snapshot: bool = False) -> T:
        return await self._readers.run(plan)

    async def _write(self, tenants: Tenants, plan: Callable[[Session], Plan[T]]) -> T:
        return await self._writer.run(plan)
