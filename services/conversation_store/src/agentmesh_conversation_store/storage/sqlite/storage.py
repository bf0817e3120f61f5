"""The storage interface on one SQLite file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from agentmesh_conversation_store.domain.changes import Command
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import (
    ApiKey,
    ConversationView,
    Instant,
    Micros,
    RaisedFence,
    Run,
)
from agentmesh_conversation_store.storage.interface import (
    CommitListener,
    ConversationQuery,
    DocumentWrite,
    Due,
    EventCodec,
    GrantedTurn,
    Head,
    Renewal,
    Request,
    StoredDocument,
)

from . import catalog, keys, queue, reads
from .database import connect, migrate
from .readers import Readers
from .unit import Unit
from .writer import Clock, Writer

R = TypeVar("R")
DATABASE_FILE = "store.sqlite3"


def system_clock() -> Instant:
    """This machine's clock, in microseconds since 1970."""
    return time.time_ns() // 1000


class SqliteStorage:
    """Everything durable in one file: a writer that commits in groups, and readers beside it."""

    def __init__(
        self, path: Path, codec: EventCodec, *, readers: int = 2, clock: Clock = system_clock
    ) -> None:
        self._path = path
        self._clock = clock
        self._unit = Unit(codec)
        self._writer = Writer(path, clock)
        self._readers = Readers(path, readers)

    async def open(self) -> None:
        """Creates the file if need be and brings its schema up to date."""
        await asyncio.get_running_loop().run_in_executor(None, self._prepare)
        self._writer.start()

    def _prepare(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = connect(self._path)
        try:
            migrate(connection)
        finally:
            connection.close()

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
        return await self._writer.run(lambda session: self._unit.execute(session, command))

    async def execute_once(self, command: Command[R], request: Request[R]) -> bytes:
        """See `Storage`."""
        return await self._writer.run(
            lambda session: self._unit.execute_once(session, command, request)
        )

    async def conversation(self, tenant: str, conversation_id: str) -> ConversationView:
        """See `Storage`."""
        return await self._readers.run(lambda db: reads.conversation(db, tenant, conversation_id))

    async def conversations(
        self, tenant: str, query: ConversationQuery
    ) -> Sequence[ConversationView]:
        """See `Storage`."""
        return await self._readers.run(lambda db: reads.conversations(db, tenant, query))

    async def events(
        self, tenant: str, conversation_id: str, after: int, limit: int, max_bytes: int
    ) -> Sequence[StoredEvent]:
        """See `Storage`."""
        return await self._readers.run(
            lambda db: reads.events(db, tenant, conversation_id, after, limit, max_bytes)
        )

    async def tail(
        self, tenant: str, conversation_id: str, limit: int
    ) -> tuple[Head, Sequence[StoredEvent]]:
        """See `Storage`."""
        return await self._readers.run(lambda db: reads.tail(db, tenant, conversation_id, limit))

    async def heads(self, conversations: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Head]:
        """See `Storage`."""
        return await self._readers.run(lambda db: reads.heads(db, conversations))

    async def grant(self, demand: dict[str, int], lease: Micros) -> Sequence[Run]:
        """See `Storage`."""
        return await self._writer.run(lambda session: queue.grant(session, demand, lease))

    async def granted_turns(self, runs: Sequence[Run]) -> Sequence[GrantedTurn]:
        """See `Storage`."""
        return await self._readers.run(lambda db: [queue.granted_turn(db, run) for run in runs])

    async def renew(
        self, worker_id: str, held: Sequence[tuple[str, int]], lease: Micros
    ) -> Renewal:
        """See `Storage`."""
        return await self._writer.run(lambda session: queue.renew(session, worker_id, held, lease))

    async def shorten(self, worker_id: str, keep: Micros) -> None:
        """See `Storage`."""
        await self._writer.run(lambda session: queue.shorten(session, worker_id, keep))

    async def due(self, *, expired: bool, limit: int) -> Sequence[Due]:
        """See `Storage`."""
        now = self._clock()
        return await self._readers.run(lambda db: queue.due(db, now, expired=expired, limit=limit))

    async def raised_fences(self, since: Instant) -> Sequence[RaisedFence]:
        """See `Storage`."""
        return await self._readers.run(lambda db: queue.raised_fences(db, since))

    async def prune(self) -> None:
        """See `Storage`."""
        await self._writer.run(queue.prune)

    async def put_documents(
        self,
        tenant: str,
        write: DocumentWrite,
        request: Request[Sequence[StoredDocument]] | None = None,
    ) -> Sequence[StoredDocument] | bytes:
        """See `Storage`."""
        return await self._writer.run(lambda session: catalog.put(session, tenant, write, request))

    async def document(
        self, tenant: str, kind: int, name: str, version: int
    ) -> StoredDocument | None:
        """See `Storage`."""
        return await self._readers.run(lambda db: catalog.get(db, tenant, kind, name, version))

    async def documents(
        self, tenant: str, kind: int, names: Sequence[str], after: str, limit: int
    ) -> Sequence[StoredDocument]:
        """See `Storage`."""
        return await self._readers.run(
            lambda db: catalog.listing(db, tenant, kind, names, after, limit)
        )

    async def delete_document(self, tenant: str, kind: int, name: str) -> bool:
        """See `Storage`."""
        return await self._writer.run(lambda session: catalog.delete(session, tenant, kind, name))

    async def add_key(
        self, key: ApiKey, secret_hash: bytes, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """See `Storage`."""
        return await self._writer.run(lambda session: keys.add(session, key, secret_hash, request))

    async def key_by_hash(self, secret_hash: bytes) -> ApiKey | None:
        """See `Storage`."""
        return await self._readers.run(lambda db: keys.by_hash(db, secret_hash))

    async def keys_exist(self) -> bool:
        """See `Storage`."""
        return await self._readers.run(keys.exist)

    async def keys(
        self, tenant: str, before: tuple[Instant, str] | None, limit: int
    ) -> Sequence[ApiKey]:
        """See `Storage`."""
        return await self._readers.run(lambda db: keys.listing(db, tenant, before, limit))

    async def revoke_key(self, tenant: str, key_id: str) -> ApiKey | None:
        """See `Storage`."""
        return await self._writer.run(lambda session: keys.revoke(session, tenant, key_id))
