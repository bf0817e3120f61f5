"""The database servers of the tests: what they promise to the tests that rely on them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis

from tests.support.databases import PostgresServer, RedisServer
from tests.support.postgres import CONNECTION_ERRORS

ROOT = Path(__file__).parents[2]
# Starts both, says where they are, and never ends by itself.
OWNER = """
import json, time
from tests.support.databases import PostgresServer, RedisServer
servers = [PostgresServer(), RedisServer()]
for server in servers:
    server.start()
print(json.dumps([[server.pid, str(server.folder)] for server in servers]), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def second_postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def own_postgres(second_postgres: PostgresServer) -> PostgresServer:
    """A second server at the same time, to be killed; it runs."""
    if not second_postgres.alive:
        second_postgres.start()
    return second_postgres


async def test_the_role_is_an_ordinary_one(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    (role,) = postgres_server.execute(
        "SELECT rolname, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole"
        " FROM pg_roles WHERE rolname = current_user",
        url,
    )
    assert role.pop("rolname") == "agentmesh"
    assert not any(role.values())
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        postgres_server.execute("CREATE ROLE another SUPERUSER", url)
    postgres_server.drop_database(url)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        postgres_server.execute("SELECT 1", url)


def test_commits_are_durable(postgres_url: str, postgres_server: PostgresServer) -> None:
    for setting in ("fsync", "synchronous_commit"):
        (row,) = postgres_server.execute(f"SHOW {setting}", postgres_url)
        assert row == {setting: "on"}


def test_letters_of_all_scripts_have_their_lower_case(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    rows = postgres_server.execute("SELECT lower('ÜNÏ ЖУК') AS x", postgres_url)
    assert rows == [{"x": "ünï жук"}]


def test_servers_and_databases_are_apart(
    postgres_server: PostgresServer, own_postgres: PostgresServer, postgres_url: str
) -> None:
    assert postgres_server.port != own_postgres.port
    other = own_postgres.create_database()
    postgres_server.execute("CREATE TABLE here (x integer)", postgres_url)
    with pytest.raises(asyncpg.UndefinedTableError):
        own_postgres.execute("SELECT x FROM here", other)
    own_postgres.drop_database(other)


async def test_acknowledged_rows_survive_a_kill_amid_writes(own_postgres: PostgresServer) -> None:
    url = own_postgres.create_database()
    own_postgres.execute("CREATE TABLE kept (x integer PRIMARY KEY)", url)
    acknowledged: list[int] = []
    enough = asyncio.Event()

    async def write() -> None:
        connection = await asyncpg.connect(url)
        for number in range(1_000_000):
            await connection.execute("INSERT INTO kept VALUES ($1)", number)
            acknowledged.append(number)
            if number == 20:
                enough.set()

    writer = asyncio.create_task(write())
    await enough.wait()
    processes = psutil.Process(own_postgres.pid).children(recursive=True)
    await asyncio.to_thread(own_postgres.sigkill)
    with pytest.raises(CONNECTION_ERRORS):
        await writer
    assert not own_postgres.alive
    assert not any(_lives(process) for process in processes)

    await asyncio.to_thread(own_postgres.start)
    rows = [row["x"] for row in own_postgres.execute("SELECT x FROM kept ORDER BY x", url)]
    # The row that was on its way may be there without its acknowledgement.
    assert rows[: len(acknowledged)] == acknowledged
    assert len(rows) <= len(acknowledged) + 1


def test_a_stopped_server_comes_back_with_its_data(own_postgres: PostgresServer) -> None:
    url = own_postgres.create_database()
    own_postgres.execute("CREATE TABLE kept AS SELECT 7 AS x", url)
    own_postgres.stop()
    with pytest.raises(ConnectionRefusedError):
        own_postgres.execute("SELECT 1", url)
    own_postgres.start()
    assert own_postgres.execute("SELECT x FROM kept", url) == [{"x": 7}]


def test_a_paused_server_is_silent_and_goes_on() -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url, socket_timeout=0.2) as client:
        client.set("key", "before")
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.get("key")
        server.resume()
        assert client.get("key") == b"before"


def test_a_killed_redis_forgets_and_keeps_its_port() -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "before")
        server.sigkill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        server.start()
        assert client.get("key") is None


def test_redis_databases_are_empty_and_apart(redis_server: RedisServer, redis_url: str) -> None:
    other = redis_server.create_database()
    assert other != redis_url
    with redis.Redis.from_url(redis_url) as mine, redis.Redis.from_url(other) as theirs:
        mine.set("key", "mine")
        assert theirs.dbsize() == 0
        redis_server.flush()
        assert mine.dbsize() == 0


def test_servers_end_with_their_owner_and_leave_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as owner:
        assert owner.stdout is not None
        started = json.loads(owner.stdout.readline())
        servers = [psutil.Process(pid) for pid, _ in started]
        processes = servers + [child for server in servers for child in server.children()]
        guardians = [server.parent() for server in servers]
        owner.send_signal(signal.SIGKILL)
    for guardian in guardians:
        assert guardian is not None
        guardian.wait(60)
    assert not any(_lives(process) for process in processes)
    assert not any(Path(folder).exists() for _, folder in started)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
