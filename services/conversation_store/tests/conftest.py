"""Fixtures: a storage of each kind, and a running store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from pydantic import SecretStr

from services.conversation_store.tests.driver import Database, RunningStore
from services.conversation_store.tests.histories import World
from services.conversation_store.tests.support import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """The clock of `storage`."""
    return ManualClock()


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def storage(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Storage]:
    """An empty storage of each kind, under a clock that moves when told to."""
    opened: Storage
    if request.param == "sqlite":
        opened = SqliteStorage(tmp_path / "s.db", ProtobufEvents(), clock=clock)
    else:
        url = request.getfixturevalue("postgres_url")
        opened = PostgresStorage(url, ProtobufEvents(), clock=clock)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def world(storage: Storage, clock: ManualClock) -> World:
    """`storage`, and what is done to it."""
    return World(storage, clock)


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def replicas(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[list[Storage]]:
    """Two storages on one database; SQLite has one."""
    opened: list[Storage]
    if request.param == "sqlite":
        opened = [SqliteStorage(tmp_path / "s.db", ProtobufEvents(), clock=clock)] * 2
    else:
        url = request.getfixturevalue("postgres_url")
        opened = [PostgresStorage(url, ProtobufEvents(), clock=clock) for _ in range(2)]
    for storage in set(opened):
        await storage.open()
    yield opened
    for storage in set(opened):
        await storage.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """The settings that give a store an empty database of each kind."""
    if request.param == "sqlite":
        return {}
    url = request.getfixturevalue("postgres_url")
    return {"postgres_url": SecretStr(url), "api_key_secret": SecretStr("pepper")}


@pytest_asyncio.fixture
async def store(tmp_path: Path, database: Database) -> AsyncIterator[RunningStore]:
    """A running store with quick leases."""
    running = await RunningStore.start(tmp_path / "data", **database)
    yield running
    await running.stop()
