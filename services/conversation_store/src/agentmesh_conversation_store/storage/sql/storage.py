"""The storage interface over plans; a database adds how to run them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from agentmesh_conversation_store.domain.access import SYSTEM as ALL_SEEING
from agentmesh_conversation_store.domain.access import Caller
from agentmesh_conversation_store.domain.approvals import Approval
from agentmesh_conversation_store.domain.changes import Command
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.keys import ApiKey, KeyRotation, KeyUse
from agentmesh_conversation_store.domain.model import (
    BlobReference,
    Checkpoint,
    ConversationView,
    Instant,
    Micros,
    RaisedFence,
    Run,
)
from agentmesh_conversation_store.storage.catalog import (
    DocumentDeletion,
    DocumentQuery,
    DocumentWrite,
    StoredDocument,
)
from agentmesh_conversation_store.storage.interface import (
    ApprovalQuery,
    CheckpointLink,
    CommitListener,
    ConversationQuery,
    Due,
    FeedPage,
    GrantedTurn,
    Head,
    Renewal,
)
from agentmesh_conversation_store.storage.requests import Request

from . import approvals, blobs, catalog, checkpoints, feed, keys, listing, marks, queue, reads
from .audit import SqlAuditLog
from .audited import Recorder
from .history import SqlHistory
from .ledger import SqlLedger
from .plan import Plan, Session
from .sharing import SqlSharing
from .transfer import SqlTransfer
from .unit import Unit
from .words import WordIndex

R = TypeVar("R")
T = TypeVar("T")

Tenants = tuple[str, ...]
ALL: Tenants = ("*",)
SYSTEM = ""


class SqlStorage(SqlLedger, SqlAuditLog, SqlHistory, SqlSharing, SqlTransfer):
    """Everything of `Storage` but the connection.

    `Tenants` name whose rows a plan may see; `ALL` is for the work that the store does for
    itself. A database with row-level security enforces it.
    """

    _words: WordIndex
    _unit: Unit
    _recorder: Recorder

    @abstractmethod
    async def open(self) -> None:
        """Connects, and brings the schema up to date."""

    @abstractmethod
    async def close(self) -> None:
        """Finishes what was begun and disconnects."""

    @abstractmethod
    def on_commit(self, listener: CommitListener) -> None:
        """See `Storage`."""

    @abstractmethod
    async def now(self) -> Instant:
        """See `Storage`."""

    @abstractmethod
    async def execute(self, command: Command[R]) -> R:
        """See `Storage`."""

    @abstractmethod
    async def execute_once(self, command: Command[R], request: Request[R]) -> bytes:
        """See `Storage`."""

    @abstractmethod
    async def _read(self, tenants: Tenants, plan: Plan[T], *, snapshot: bool = False) -> T:
        """Runs a plan that only reads; with `snapshot` all of it sees one point in time."""

    @abstractmethod
    async def _write(self, tenants: Tenants, plan: Callable[[Session], Plan[T]]) -> T:
        """Runs a plan in a transaction of its own."""

    # --- reading -----------------------------------------------------------------------------

    async def conversation(self, tenant: str, conversation_id: str) -> ConversationView:
        """See `Storage`."""
        return await self._read((tenant,), reads.conversation(tenant, conversation_id))

    async def definition(self, tenant: str, digest: str) -> bytes:
        """See `Storage`."""
        return await self._read((tenant,), reads.definition(tenant, digest))

    async def conversations(
        self, tenant: str, query: ConversationQuery
    ) -> Sequence[ConversationView]:
        """See `Storage`."""
        return await self._read((tenant,), listing.conversations(tenant, query, self._words))

    async def events(
        self, tenant: str, conversation_id: str, after: int, limit: int, max_bytes: int
    ) -> Sequence[StoredEvent]:
        """See `Storage`."""
        retold = self._unit.codec.belonging_to
        plan = reads.events(tenant, conversation_id, after, limit, max_bytes, retold)
        return await self._read((tenant,), plan)

    async def context_marks(
        self, tenant: str, conversation_id: str, through: int
    ) -> Sequence[StoredEvent]:
        """See `Storage`."""
        retold = self._unit.codec.belonging_to
        plan = marks.marks(tenant, conversation_id, through, retold)
        return await self._read((tenant,), plan, snapshot=True)

    async def tail(
        self, tenant: str, conversation_id: str, limit: int
    ) -> tuple[Head, Sequence[StoredEvent]]:
        """See `Storage`."""
        plan = reads.tail(tenant, conversation_id, limit, self._unit.codec.belonging_to)
        return await self._read((tenant,), plan, snapshot=True)

    async def heads(self, conversations: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Head]:
        """See `Storage`."""
        return await self._read(ALL, reads.heads(conversations))

    async def feed(
        self, tenant: str, after: int, limit: int, max_bytes: int, caller: Caller = ALL_SEEING
    ) -> FeedPage:
        """See `Storage`."""
        return await self._read((tenant,), feed.after(tenant, after, limit, max_bytes, caller))

    async def feed_heads(self, tenants: Sequence[str]) -> dict[str, int]:
        """See `Storage`."""
        return await self._read(ALL, feed.heads(tenants))

    async def blob_references(self, tenant: str, conversation_id: str) -> Sequence[BlobReference]:
        """See `Storage`."""
        return await self._read((tenant,), blobs.references(tenant, conversation_id))

    async def referenced_blobs(self, tenant: str, digests: Sequence[str]) -> frozenset[str]:
        """See `Storage`."""
        return await self._read((tenant,), blobs.referenced(tenant, digests))

    async def manifest_blobs(self, tenant: str, manifest: str) -> frozenset[str]:
        """See Storage."""
        return await self._read((tenant,), blobs.of_manifest(tenant, manifest))

    async def approval(
        self, tenant: str, approval_id: str, caller: Caller = ALL_SEEING
    ) -> Approval | None:
        """See `Storage`."""
        return await self._read((tenant,), approvals.get(tenant, approval_id, caller))

    async def approvals(self, tenant: str, query: ApprovalQuery) -> Sequence[Approval]:
        """See `Storage`."""
        return await self._read((tenant,), approvals.listing(tenant, query))

    # --- the queue ---------------------------------------------------------------------------

    async def grant(self, demand: dict[str, int], lease: Micros) -> Sequence[Run]:
        """See `Storage`."""
        return await self._write(ALL, lambda session: queue.grant(session, demand, lease))

    async def granted_turns(
        self, runs: Sequence[Run], most_chain_bytes: int
    ) -> Sequence[GrantedTurn]:
        """See `Storage`."""
        tenants = tuple({run.tenant for run in runs})
        plan = queue.granted_turns(runs, most_chain_bytes)
        return await self._read(tenants, plan, snapshot=True)

    async def checkpoint_links(
        self, tenant: str, run_id: str, fence: int, checkpoint_id: str
    ) -> Sequence[CheckpointLink]:
        """See `Storage`."""
        plan = checkpoints.links(tenant, run_id, fence, checkpoint_id)
        return await self._read((tenant,), plan, snapshot=True)

    async def checkpoints(self, tenant: str, checkpoint_ids: Sequence[str]) -> Sequence[Checkpoint]:
        """See `Storage`."""
        return await self._read((tenant,), checkpoints.read(tenant, checkpoint_ids))

    async def renew(
        self, worker_id: str, held: Sequence[tuple[str, int]], lease: Micros
    ) -> Renewal:
        """See `Storage`."""
        return await self._write(ALL, lambda _: queue.renew(worker_id, held, lease))

    async def open_lease_stream(self, worker_id: str, stream_id: str) -> None:
        """See `Storage`."""
        await self._write(ALL, lambda _: queue.open_stream(worker_id, stream_id))

    async def end_lease_stream(self, worker_id: str, stream_id: str, keep: Micros) -> None:
        """See `Storage`."""
        await self._write(ALL, lambda _: queue.end_stream(worker_id, stream_id, keep))

    async def due(self, *, expired: bool, limit: int) -> Sequence[Due]:
        """See `Storage`."""
        return await self._read(ALL, queue.due(expired=expired, limit=limit))

    async def raised_fences(self, since: Instant) -> Sequence[RaisedFence]:
        """See `Storage`."""
        return await self._read(ALL, queue.raised_fences(since))

    async def prune(self) -> bool:
        """See `Storage`."""
        return await self._write(ALL, lambda _: queue.prune())

    # --- catalog and keys --------------------------------------------------------------------

    async def put_documents(
        self,
        tenant: str,
        write: DocumentWrite,
        request: Request[Sequence[StoredDocument]] | None = None,
    ) -> Sequence[StoredDocument] | bytes:
        """See `Storage`."""
        plan = self._recorder.audited(lambda _: catalog.put(tenant, write, request))
        return await self._write((tenant, SYSTEM), plan)

    async def document(
        self, tenant: str, kind: int, name: str, version: int
    ) -> StoredDocument | None:
        """See `Storage`."""
        return await self._read((tenant, SYSTEM), catalog.get(tenant, kind, name, version))

    async def documents(
        self, tenant: str, query: DocumentQuery, limit: int
    ) -> Sequence[StoredDocument]:
        """See `Storage`."""
        return await self._read((tenant, SYSTEM), catalog.listing(tenant, query, limit))

    async def document_versions(
        self, tenant: str, kind: int, name: str, before: int, limit: int
    ) -> Sequence[StoredDocument]:
        """See `Storage`."""
        plan = catalog.versions(tenant, kind, name, before, limit)
        return await self._read((tenant, SYSTEM), plan)

    async def delete_document(
        self, tenant: str, deletion: DocumentDeletion, request: Request[None] | None = None
    ) -> bytes | None:
        """See `Storage`."""
        plan = self._recorder.audited(lambda _: catalog.delete(tenant, deletion, request))
        return await self._write((tenant, SYSTEM), plan)

    async def add_key(
        self, key: ApiKey, secret_hash: bytes, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """See `Storage`."""
        plan = self._recorder.audited(
            lambda _: keys.add(key, secret_hash, request),
            lambda: keys.as_resource(key.tenant, key.key_id),
        )
        return await self._write((key.tenant,), plan)

    async def rotate_key(
        self, rotation: KeyRotation, secret_hash: bytes, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """See `Storage`."""
        plan = self._recorder.audited(lambda _: keys.rotate(rotation, secret_hash, request))
        return await self._write((rotation.tenant,), plan)

    async def usable_key(self, secret_hash: bytes) -> tuple[ApiKey, Instant] | None:
        """See `Storage`."""
        return await self._read(ALL, keys.usable(secret_hash))

    async def note_key_uses(self, uses: Sequence[KeyUse], apart: Micros) -> None:
        """See `Storage`."""
        tenants = tuple(sorted({use.tenant for use in uses}))
        await self._write(tenants, lambda _: keys.note_uses(uses, apart))

    async def keys_exist(self) -> bool:
        """See `Storage`."""
        return await self._read(ALL, keys.exist())

    async def keys(
        self, tenant: str, before: tuple[Instant, str] | None, limit: int
    ) -> Sequence[ApiKey]:
        """See `Storage`."""
        return await self._read((tenant,), keys.listing(tenant, before, limit))

    async def revoke_key(
        self, tenant: str, key_id: str, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """See `Storage`."""
        plan = self._recorder.audited(lambda _: keys.revoke(tenant, key_id, request))
        return await self._write((tenant,), plan)
