"""What callers are told of a Postgres that fails, whatever its driver calls it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.servicers.rejections import as_mesh_error
from agentmesh_conversation_store.storage.postgres.database import Database, _is_lost, as_rejection

from services.conversation_store.tests.support import PATIENCE

DRIVERS_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

AWAY = [
    ConnectionRefusedError(),
    ConnectionResetError(),
    BrokenPipeError(),
    ssl.SSLError(),
    TimeoutError(),
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.InternalClientError("cannot switch to state 15"),
    asyncpg.ConnectionDoesNotExistError("closed in the middle of operation"),
    asyncpg.ConnectionFailureError(),
    asyncpg.ClientCannotConnectError(),
    asyncpg.ConnectionRejectionError(),
    asyncpg.TransactionResolutionUnknownError(),
    asyncpg.ProtocolViolationError(),
    asyncpg.InvalidPasswordError(),
    asyncpg.InvalidCatalogNameError(),
    asyncpg.TooManyConnectionsError(),
    asyncpg.OutOfMemoryError(),
    asyncpg.CannotConnectNowError(),
    asyncpg.AdminShutdownError(),
    asyncpg.CrashShutdownError(),
    asyncpg.QueryCanceledError(),
    asyncpg.IdleSessionTimeoutError(),
    asyncpg.DatabaseDroppedError(),
    asyncpg.ReadOnlySQLTransactionError(),
    asyncpg.LockNotAvailableError(),
    asyncpg.ObjectNotInPrerequisiteStateError("parallel worker failed to initialize"),
    asyncpg.PostgresIOError(),
    asyncpg.UndefinedFileError(),
    asyncpg.SerializationError(),
    asyncpg.DeadlockDetectedError(),
]
DEFECTS = [
    asyncpg.UndefinedTableError(),
    asyncpg.UniqueViolationError(),
    asyncpg.PostgresSyntaxError(),
    RuntimeError(
        "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
    ),
    AttributeError("'NoneType' object has no attribute 'write'"),
]


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_a_database_that_fails_is_unavailable(error: Exception) -> None:
    rejection = as_rejection(error)
    assert rejection is not None
    told = as_mesh_error(rejection)
    assert told.code is grpc.StatusCode.UNAVAILABLE
    assert told.retry_after is not None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (asyncpg.DiskFullError(), Reason.STORAGE_FULL),
        (asyncpg.DataCorruptedError(), Reason.CORRUPT),
        (asyncpg.IndexCorruptedError(), Reason.CORRUPT),
    ],
)
def test_a_full_disk_and_damage_are_told_from_that(error: Exception, reason: Reason) -> None:
    rejection = as_rejection(error)
    assert rejection is not None
    assert rejection.reason is reason


@pytest.mark.parametrize("error", DEFECTS, ids=lambda error: type(error).__name__)
def test_a_defect_is_one_unless_the_connection_was_lost(error: Exception) -> None:
    assert as_rejection(error) is None
    rejection = as_rejection(error, lost=True)
    assert rejection is not None
    assert rejection.reason is Reason.DATABASE_UNAVAILABLE


@pytest.mark.parametrize("reason", list(Reason))
def test_every_refusal_has_a_status(reason: Reason) -> None:
    told = as_mesh_error(Rejection(reason, "no", kind="conversation", name="conv_1"))
    assert told.code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


# --- connections of a real server ----------------------------------------------------------------


@pytest_asyncio.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """A database that was migrated."""
    opened = Database(postgres_url, size=4, timeout=10.0)
    await opened.open(migrating=True)
    yield opened
    await opened.close()


def _entered(database: Database, way: str) -> Any:
    if way == "write":
        return database.writing(["acme"])
    return database.reading(["acme"], snapshot=way == "snapshot")


async def _end(database: Database, connection: Any) -> None:
    """The server ends this connection."""
    number = await connection.fetchval("SELECT pg_backend_pid()")
    async with database.writing([]) as other:
        await other.fetchval("SELECT pg_terminate_backend($1)", number)


async def _lose(database: Database, connection: Any) -> None:
    """The server ends this connection, and it is known."""
    await _end(database, connection)
    async with asyncio.timeout(PATIENCE):
        while not _is_lost(connection):
            with suppress(*DRIVERS_ERRORS):
                await connection.fetchval("SELECT 1")
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("way", ["read", "snapshot", "write"])
async def test_whatever_comes_over_a_lost_connection_is_unavailable(
    database: Database, way: str
) -> None:
    async def works() -> None:
        async with _entered(database, way) as connection:
            await _lose(database, connection)
            raise RuntimeError("the handler is closed")

    with pytest.raises(Rejection) as refused:
        await works()
    assert refused.value.reason is Reason.DATABASE_UNAVAILABLE


@pytest.mark.parametrize("way", ["read", "snapshot", "write"])
async def test_a_defect_over_a_whole_connection_stays_one(database: Database, way: str) -> None:
    async def works(sql: str) -> None:
        async with _entered(database, way) as connection:
            await connection.fetch(sql)
            raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        await works("SELECT 1")
    with pytest.raises(asyncpg.UndefinedTableError):
        await works("SELECT * FROM nothing")


@pytest.mark.parametrize("end", [_end, _lose])
@pytest.mark.parametrize("way", ["read", "snapshot", "write"])
async def test_a_cancellation_is_one_also_when_the_connection_is_lost(
    database: Database, way: str, end: Callable[[Database, Any], Awaitable[None]]
) -> None:
    """A loop that is stopped while the database dies would go on otherwise."""
    lost, ever = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        async with _entered(database, way) as connection:
            await end(database, connection)
            lost.set()
            await ever.wait()

    task = asyncio.create_task(works())
    async with asyncio.timeout(PATIENCE):
        await lost.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


@pytest.mark.parametrize("way", ["read", "snapshot", "write"])
async def test_a_wait_that_the_driver_gives_up_is_no_cancellation(
    database: Database, way: str
) -> None:
    async def works() -> None:
        async with _entered(database, way):
            waiter = asyncio.get_running_loop().create_future()
            waiter.cancel()
            await waiter

    with pytest.raises(Rejection) as refused:
        await works()
    assert refused.value.reason is Reason.DATABASE_UNAVAILABLE


async def test_a_begin_that_is_cancelled_leaves_no_transaction(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for patience in (0.0, 0.0001, 0.001, 0.002, 0.005, 0.01):
        with suppress(TimeoutError):
            async with asyncio.timeout(patience), database.writing(["acme"]) as connection:
                await connection.fetchval("SELECT pg_sleep(1)")
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    async with database.writing(["acme"]) as connection:
        assert await connection.fetchval("SELECT 1") == 1
