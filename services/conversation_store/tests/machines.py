"""What the state machines of the model tests stand on: a loop, a clock, and an empty storage."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import ClassVar, TypeVar

from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from hypothesis.stateful import RuleBasedStateMachine

from services.conversation_store.tests.support import ManualClock, emptied

T = TypeVar("T")


class StorageMachine(RuleBasedStateMachine):
    """On SQLite. Its first step, an `initialize`, is to call `open_storage`."""

    storage: Storage

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()

    def go(self, work: Awaitable[T]) -> T:
        """Runs it to its end."""

        async def wrapped() -> T:
            return await work

        return self.runner.run(wrapped())

    def open_storage(self) -> None:
        """Opens an empty one."""
        self.storage = self.go(self.opened())

    async def opened(self) -> Storage:
        """An empty storage."""
        path = Path(self.folder.name) / "s.db"
        storage = SqliteStorage(path, ProtobufEvents(), readers=1, clock=self.clock)
        await storage.open()
        return storage

    def teardown(self) -> None:
        self.go(self.storage.close())
        self.runner.close()
        self.folder.cleanup()


class OnPostgres(StorageMachine):
    """The same on Postgres, in one database that is emptied for each example."""

    url: ClassVar[str]

    async def opened(self) -> Storage:
        """An empty storage."""
        storage = PostgresStorage(self.url, ProtobufEvents(), clock=self.clock)
        await storage.open()
        await emptied(self.url)
        return storage
