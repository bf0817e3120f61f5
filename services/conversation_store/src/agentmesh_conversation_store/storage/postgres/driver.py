"""Drives plans on a Postgres connection."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.storage.sql.plan import (
    Alone,
    Each,
    Fetch,
    FetchEach,
    Now,
    Operation,
    Plan,
    Rows,
    Unhurried,
)

T = TypeVar("T")
Connection = "asyncpg.Connection[asyncpg.Record]"
Clock = Callable[[], Instant]

LOCKS = 0x61676D  # the first half of our advisory locks: "agm"
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


@functools.cache
def translated(sql: str) -> str:
    """Our SQL as Postgres': arguments are numbered."""
    first, *others = sql.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(others, 1))


def tenants_setting(tenants: Sequence[str]) -> str:
    """The tenants of a transaction as the literal of an array, quoted for SQL."""
    quoted = (tenant.replace("\\", "\\\\").replace('"', '\\"') for tenant in tenants)
    array = "{" + ",".join(f'"{tenant}"' for tenant in quoted) + "}"
    return "'" + array.replace("'", "''") + "'"


def lock_number(section: str) -> int:
    """The second half of the advisory lock of a section; a signed 32-bit number."""
    number = zlib.crc32(section.encode())
    return number - 2**32 if number >= 2**31 else number


class Driver:
    """Carries out operations; remembers the database's clock."""

    def __init__(self, clock: Clock | None, heard: Callable[[Instant], None]) -> None:
        self._clock = clock
        self._heard = heard

    async def drive(self, connection: Any, plan: Plan[T]) -> T:
        """What the plan returns. Runs inside the caller's transaction."""
        try:
            operation = next(plan)
            while True:
                rows = await self._carry_out(connection, operation)
                operation = plan.send(rows)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _carry_out(self, connection: Any, operation: Operation) -> Rows:
        match operation:
            case Fetch(sql, arguments):
                return await self._fetch(connection, translated(sql), _storable(arguments))
            case FetchEach(sql, many):
                many = [_storable(arguments) for arguments in many]
                if len(many) == 1:
                    return await self._fetch(connection, translated(sql), many[0])
                rows: Rows = await connection.fetchmany(translated(sql), many)
                return rows
            case Each(sql, many):
                many = [_storable(arguments) for arguments in many]
                if len(many) == 1:
                    await connection.execute(translated(sql), *many[0])
                else:
                    await connection.executemany(translated(sql), many)
                return ()
            case Now():
                return ((await self.now(connection),),)
            case Unhurried():
                await connection.execute("SET LOCAL synchronous_commit = off")
                return ()
            case Alone(section):
                await connection.execute(
                    "SELECT pg_advisory_xact_lock($1, $2)", LOCKS, lock_number(section)
                )
                return ()

    async def _fetch(self, connection: Any, sql: str, arguments: Sequence[Any]) -> Rows:
        rows: Rows = await connection.fetch(sql, *arguments)
        return rows

    async def now(self, connection: Any) -> Instant:
        """The database's clock."""
        if self._clock is not None:
            return self._clock()
        instant: Instant = await connection.fetchval(_NOW)
        self._heard(instant)
        return instant


def _storable(arguments: Sequence[Any]) -> Sequence[Any]:
    """Postgres' text has no NUL. Whatever has one, people and models write what they like, gets a
    replacement character in its columns; the bytes of events keep it."""
    return [
        value.replace("\0", "\ufffd") if type(value) is str and "\0" in value else value
        for value in arguments
    ]
