"""The storage interface on a Postgres database that any number of replicas share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from agentmesh_conversation_store.domain.audit_keys import AuditKeys
from agentmesh_conversation_store.domain.changes import Command
from agentmesh_conversation_store.domain.model import Instant
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

from .database import TRY_AGAIN, Database
from .driver import Clock, Driver
from .words import TsvectorWords
from .writer import ATTEMPTS, GroupWriter

R = TypeVar("R")
T = TypeVar("T")
_MARKED_AUDIT = 11
"""The schema from which on audit records are marked."""


class PostgresStorage(SqlStorage):
    """Everything durable in one database. Times come from the database's clock. Without keys audit
    records are good as long as this storage lives."""

    _words = TsvectorWords()

    def __init__(
        self,
        url: str,
        codec: EventCodec,
        *,
        writers: int = 4,
        readers: int = 8,
        timeout: float = 30.0,
        migrating: bool = True,
        clock: Clock | None = None,
        audit_keys: AuditKeys | None = None,
    ) -> None:
        self._database = Database(url, size=writers + readers, timeout=timeout)
        self._driver = Driver(clock, self._hear_clock)
        self._audit_keys = audit_keys or AuditKeys.random()
        self._recorder = Recorder(self._audit_keys)
        self._unit = Unit(codec, self._words, self._recorder)
        self._writer = GroupWriter(self._database, self._driver, self._unit, writers)
        self._clock = clock
        self._migrating = migrating
        self._ahead: int | None = None

    async def open(self) -> None:
        """Connects, and brings the schema up to date."""
        await self._database.open(migrating=self._migrating, migrated=self._migrated)
        self._writer.start()

    async def _migrated(self, connection: Any, before: int) -> None:
        if 0 < before < _MARKED_AUDIT:
            await connection.execute("SET LOCAL agentmesh.tenants = '{*}'")
            await self._driver.drive(connection, audit_chain.cut_over(self._audit_keys))

    async def close(self) -> None:
        """Finishes what was begun."""
        await self._writer.close()
        await self._database.close()

    def on_commit(self, listener: CommitListener) -> None:
        """See `Storage`."""
        self._writer.on_commit(listener)

    def _hear_clock(self, instant: Instant) -> None:
        self._ahead = instant - time.monotonic_ns() // 1000

    async def now(self) -> Instant:
        """The database's clock, as it was heard last and went on since."""
        if self._clock is not None:
            return self._clock()
        if self._ahead is None:
            async with self._database.reading((), snapshot=False) as connection:
                return await self._driver.now(connection)
        return self._ahead + time.monotonic_ns() // 1000

    async def execute(self, command: Command[R]) -> R:
        """See `Storage`."""
        return cast(R, await self._writer.run(Item(command)))

    async def execute_once(self, command: Command[R], request: Request[R]) -> bytes:
        """See `Storage`."""
        return cast(bytes, await self._writer.run(Item(command, request)))

    async def _read(self, tenants: Tenants, plan: Plan[T], *, snapshot: bool = False) -> T:
        async with self._database.reading(tenants, snapshot=snapshot) as connection:
            return await self._driver.drive(connection, plan)

    async def _write(self, tenants: Tenants, plan: Callable[[Session], Plan[T]]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            session = Session()
            try:
                async with self._database.writing(tenants) as connection:
                    result = await self._driver.drive(connection, plan(session))
            except Exception as error:
                if isinstance(error.__cause__, TRY_AGAIN) and attempt < ATTEMPTS:
                    continue
                raise
            self._writer.announce(session.committed)
            return result
        raise AssertionError("unreachable")  # pragma: no cover
