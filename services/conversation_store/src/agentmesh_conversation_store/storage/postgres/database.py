"""Connections to one Postgres database, and its schema."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import asyncpg

from agentmesh_conversation_store.domain.rejections import Reason, Rejection

from .driver import LOCKS, lock_number, tenants_setting

_log = logging.getLogger(__name__)

Migrated = Callable[[Any, int], Awaitable[None]]
"""Goes on in the migration's transaction, on its connection; with the schema that there was before,
0 if there was none."""


async def _complete(_connection: Any, _before: int) -> None:
    """Nothing is left to do."""


_FULL = (asyncpg.DiskFullError,)
_DAMAGED = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError)
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,
    asyncpg.InvalidCatalogNameError,  # not created yet, or dropped to be restored
    asyncpg.LockNotAvailableError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # its workers cannot start, or it is recovering
    asyncpg.PostgresSystemError,
)
TRY_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


class Database:
    """A pool of connections. Each is told whose rows it may see before it is used."""

    def __init__(self, url: str, *, size: int, timeout: float) -> None:
        self._url = url
        self._size = size
        self._timeout = timeout
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self, *, migrating: bool, migrated: Migrated = _complete) -> None:
        """Connects; migrates, or makes sure that somebody has."""
        try:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=0,  # else asyncpg keeps trying by itself, and prints what it meets
                max_size=self._size,
                command_timeout=self._timeout,
                timeout=self._timeout,
                max_inactive_connection_lifetime=600,
                reset=_keep,
                server_settings={"application_name": "agentmesh conversation_store"},
            )
            async with self._pool.acquire() as connection:
                if migrating:
                    await migrate(connection, migrated)
                else:
                    await require_current(connection)
                await _warn_of_exemption(connection)
        except BaseException as error:
            if self._pool is not None:
                self._pool.terminate()
            self._pool = None
            raise as_rejection(error) or error from error

    async def close(self) -> None:
        """Waits for what is under way, a while."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(self._timeout):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def reading(self, tenants: Sequence[str], *, snapshot: bool) -> AsyncIterator[Any]:
        """A connection that sees the rows of these tenants, with `snapshot` as of one instant."""
        async with self._connection() as connection:
            if not snapshot:
                await connection.execute(f"SET agentmesh.tenants = {tenants_setting(tenants)}")
                yield connection
                return
            async with self._transaction(connection, tenants, "REPEATABLE READ READ ONLY"):
                yield connection

    @asynccontextmanager
    async def writing(self, tenants: Sequence[str]) -> AsyncIterator[Any]:
        """A connection inside a transaction over the rows of these tenants."""
        async with (
            self._connection() as connection,
            self._transaction(connection, tenants, "READ COMMITTED READ WRITE"),
        ):
            yield connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._pool is None:
            raise Rejection(Reason.DATABASE_UNAVAILABLE, "the store's database is closed")
        lost = False
        try:
            async with self._pool.acquire(timeout=self._timeout) as connection:
                try:
                    yield connection
                except Exception:
                    lost = _is_lost(connection)
                    raise
        except Rejection:
            raise
        except asyncio.CancelledError as error:
            if _is_asked_to_end():
                raise
            # The driver gave up a wait of its own.
            raise _unavailable(error) from error
        except Exception as error:
            raise as_rejection(error, lost=lost) or error from error

    @asynccontextmanager
    async def _transaction(
        self, connection: Any, tenants: Sequence[str], mode: str
    ) -> AsyncIterator[None]:
        # One round trip; asyncpg's own transactions take another one for the setting.
        setting = f"SET LOCAL agentmesh.tenants = {tenants_setting(tenants)}"
        try:
            await connection.execute(f"BEGIN ISOLATION LEVEL {mode}; {setting}")
            yield
        except BaseException:
            await _roll_back(connection)
            raise
        await connection.execute("COMMIT")


def migrations() -> list[tuple[int, str]]:
    """The numbered schema files, in order, as (version, SQL)."""
    folder = resources.files(__package__) / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(int(f.name.split("_", 1)[0]), f.read_text("utf-8")) for f in files]


async def migrate(connection: Any, migrated: Migrated = _complete) -> int:
    """Brings the schema up to date, lets `migrated` do what SQL cannot, and returns its version.

    An advisory lock is held from the look at the version to the commit, so that replicas that
    start at once migrate once. A database of a newer release is refused.
    """
    async with connection.transaction():
        await connection.execute(
            "SELECT pg_advisory_xact_lock($1, $2)", LOCKS, lock_number("migrate")
        )
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)"
        )
        current = await _version(connection)
        newest = _require_known(current)
        for version, sql in migrations():
            if version > current:
                _log.info("migrating the database to schema %d", version)
                await connection.execute(sql)
                await connection.execute("INSERT INTO schema_version VALUES ($1)", version)
        await migrated(connection, current)
    return newest


async def require_current(connection: Any) -> int:
    """Refuses a database whose schema is not the one of this release."""
    exists = await connection.fetchval("SELECT to_regclass('schema_version') IS NOT NULL")
    current = await _version(connection) if exists else 0
    newest = _require_known(current)
    if current < newest:
        raise Rejection(
            Reason.DATABASE_UNAVAILABLE,
            f"the database has schema {current}, this release needs {newest}:"
            " run `agentmesh-store migrate`",
        )
    return newest


async def _version(connection: Any) -> int:
    version: int = await connection.fetchval("SELECT coalesce(max(version), 0) FROM schema_version")
    return version


def _require_known(current: int) -> int:
    newest = migrations()[-1][0]
    if current > newest:
        raise Rejection(
            Reason.DATABASE_UNAVAILABLE,
            f"the database has schema {current}, this release knows {newest}: upgrade it",
        )
    return newest


async def _warn_of_exemption(connection: Any) -> None:
    exempt = await connection.fetchval(
        "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    )
    if exempt:
        _log.warning(
            "the role of POSTGRES_URL is beyond row-level security: use one that is no superuser"
            " and has no BYPASSRLS"
        )


def _is_asked_to_end() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _roll_back(connection: Any) -> None:
    """Where that fails the connection is broken, and the transaction gone with it. Why it was to
    be rolled back counts: a caller that is cancelled would go on otherwise."""
    if _is_lost(connection):
        return
    try:
        await connection.execute("ROLLBACK")
    except (*_AWAY, asyncpg.PostgresError):
        if not _is_lost(connection):
            connection.terminate()


def _is_lost(connection: Any) -> bool:
    try:
        closed: bool = connection.is_closed()
    except asyncpg.InterfaceError:  # the pool took it back when it broke
        return True
    return closed


def as_rejection(error: BaseException, *, lost: bool = False) -> Rejection | None:
    """What a failure of the database means for the caller; None for a defect of ours. Whatever
    comes over a connection that is `lost` comes of that: not all of it has a type of its own."""
    if isinstance(error, _FULL):
        return Rejection(Reason.STORAGE_FULL, "the disk of the store is full; nothing was written")
    if isinstance(error, _DAMAGED):
        return Rejection(Reason.CORRUPT, "the store's database is damaged")
    if lost or isinstance(error, _AWAY + TRY_AGAIN):
        return _unavailable(error)
    return None


def _unavailable(error: BaseException) -> Rejection:
    name = type(error).__name__
    return Rejection(Reason.DATABASE_UNAVAILABLE, f"the store's database does not answer ({name})")


async def _keep(_: Any) -> None:
    """Connections go back to the pool as they are: whoever takes one says whose rows it sees."""
