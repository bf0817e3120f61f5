"""Fixtures: a storage of each kind, and a running store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.sqlite import SqliteStorage

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """The clock of `storage`."""
    return ManualClock()


@pytest_asyncio.fixture(params=["sqlite"])
async def storage(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Storage]:
    """An empty storage of each kind, under a clock that moves when told to."""
    opened = {"sqlite": lambda: SqliteStorage(tmp_path / "s.db", ProtobufEvents(), clock=clock)}[
        request.param
    ]()
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunningStore]:
    """A running store with quick leases."""
    running = await RunningStore.start(tmp_path / "data")
    yield running
    await running.stop()
