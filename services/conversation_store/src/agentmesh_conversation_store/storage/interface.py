"""What the store needs of a database. Every adapter passes the same conformance suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from agentmesh_conversation_store.domain.changes import Command
from agentmesh_conversation_store.domain.events import NewEvent, StoredEvent
from agentmesh_conversation_store.domain.model import (
    ApiKey,
    Checkpoint,
    Conversation,
    ConversationStatus,
    ConversationView,
    Instant,
    Micros,
    RaisedFence,
    Run,
    Step,
)

R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)


class EventCodec(Protocol):
    """Turns events into the bytes that are kept and sent, once."""

    def encode(self, event: NewEvent) -> bytes:
        """The serialized event."""
        ...

    def words(self, data: bytes) -> str:
        """What was said, if the event is a message."""
        ...


@dataclass(frozen=True, slots=True)
class Request(Generic[R_contra]):
    """A repeatable mutation: its id and digest are kept with its response for 24 h."""

    tenant: str
    request_id: str
    digest: bytes
    encode: Callable[[R_contra], bytes]


@dataclass(frozen=True, slots=True)
class Committed:
    """One committed operation, in commit order: what subscribers and workers should hear."""

    tenant: str
    conversation_id: str
    conversation: Conversation | None
    runs: Sequence[Run] = ()
    events: Sequence[StoredEvent] = ()
    fences: Sequence[RaisedFence] = ()


CommitListener = Callable[[Sequence[Committed]], None]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events pass: those that match every field that is not empty."""

    kinds: frozenset[str] = frozenset()
    run_ids: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()

    @property
    def passes_all(self) -> bool:
        """True if nothing is filtered out."""
        return not (self.kinds or self.run_ids or self.agents)

    def passes(self, event: StoredEvent) -> bool:
        """True if the event matches."""
        return (
            (not self.kinds or event.kind in self.kinds)
            and (not self.run_ids or event.run_id in self.run_ids)
            and (not self.agents or event.agent in self.agents)
        )


@dataclass(frozen=True, slots=True)
class ConversationQuery:
    """A page of conversations, newest first. `before` is (started_at, conversation_id)."""

    limit: int
    before: tuple[Instant, str] | None = None
    statuses: Sequence[ConversationStatus] = ()
    agent: str = ""
    started_after: Instant | None = None
    started_before: Instant | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log ends. `active` is true while a run is under way."""

    sequence: int
    oldest: int
    active: bool


@dataclass(frozen=True, slots=True)
class GrantedTurn:
    """A run under a new lease with all that its worker needs."""

    run: Run
    definition: bytes
    checkpoint: Checkpoint | None
    steps: Sequence[Step]
    inputs: Sequence[StoredEvent]
    head_sequence: int
    message_count: int


@dataclass(frozen=True, slots=True)
class LostLease:
    """A lease that a worker believes in and does not hold."""

    run_id: str
    current_fence: int
    reason: str


@dataclass(frozen=True, slots=True)
class Renewal:
    """How a renewal went: which runs are still held, and which leases were taken away. A lease
    that the worker itself ended is in neither."""

    until: Instant
    kept: Sequence[tuple[str, int]]
    lost: Sequence[LostLease]


@dataclass(frozen=True, slots=True)
class Due:
    """A run that time has something to do to."""

    tenant: str
    conversation_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A definition to write. `data` is opaque, `digest` that of its content."""

    kind: int
    name: str
    data: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """One version of a definition. An empty tenant is the system."""

    tenant: str
    kind: int
    name: str
    version: int
    digest: str
    created_at: Instant
    data: bytes

    @property
    def etag(self) -> str:
        """Changes with every version."""
        return f"{self.version}-{self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class DocumentWrite:
    """How to write documents. `only_changed` leaves out those that equal the newest version."""

    documents: Sequence[NewDocument] = field(default_factory=tuple)
    only_changed: bool = False
    must_be_new: bool = False
    etag: str = ""


class Storage(Protocol):
    """The database. Times come from its clock; every call raises `Rejection` for a typed no."""

    async def open(self) -> None:
        """Connects and migrates."""
        ...

    async def close(self) -> None:
        """Finishes what was begun and disconnects."""
        ...

    def on_commit(self, listener: CommitListener) -> None:
        """Calls `listener` on the event loop after each group commit, in commit order, before
        the callers learn of it."""
        ...

    async def now(self) -> Instant:
        """The clock."""
        ...

    async def execute(self, command: Command[R]) -> R:
        """Loads what the command's scope names under lock, decides, writes: all or nothing."""
        ...

    async def execute_once(self, command: Command[R], request: Request[R]) -> bytes:
        """As `execute`; the encoded result is kept, and a repetition gets the kept one."""
        ...

    async def conversation(self, tenant: str, conversation_id: str) -> ConversationView:
        """One conversation with its newest root run."""
        ...

    async def conversations(
        self, tenant: str, query: ConversationQuery
    ) -> Sequence[ConversationView]:
        """A page of conversations."""
        ...

    async def events(
        self, tenant: str, conversation_id: str, after: int, limit: int, max_bytes: int
    ) -> Sequence[StoredEvent]:
        """Consecutive events, at least one if there is one, about `max_bytes` altogether."""
        ...

    async def tail(
        self, tenant: str, conversation_id: str, limit: int
    ) -> tuple[Head, Sequence[StoredEvent]]:
        """Where the log ends, with its newest events, read at one point in time."""
        ...

    async def heads(self, conversations: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Head]:
        """Where many logs end, in one query. Those that do not exist are left out."""
        ...

    async def grant(self, demand: dict[str, int], lease: Micros) -> Sequence[Run]:
        """Leases runnable runs to workers that have that many free places: fair between
        tenants, by priority within one, oldest first."""
        ...

    async def granted_turns(self, runs: Sequence[Run]) -> Sequence[GrantedTurn]:
        """What the workers of freshly leased runs need."""
        ...

    async def renew(
        self, worker_id: str, held: Sequence[tuple[str, int]], lease: Micros
    ) -> Renewal:
        """Prolongs leases given as (run, fence)."""
        ...

    async def shorten(self, worker_id: str, keep: Micros) -> None:
        """Lets all leases of a worker end that soon."""
        ...

    async def due(self, *, expired: bool, limit: int) -> Sequence[Due]:
        """Runs whose timer or deadline passed, and if `expired` those whose lease ran out."""
        ...

    async def raised_fences(self, since: Instant) -> Sequence[RaisedFence]:
        """Fences raised since then, oldest first."""
        ...

    async def prune(self) -> None:
        """Forgets what was kept for a while: requests after 24 h, raised fences after an hour."""
        ...

    async def put_documents(
        self,
        tenant: str,
        write: DocumentWrite,
        request: Request[Sequence[StoredDocument]] | None = None,
    ) -> Sequence[StoredDocument] | bytes:
        """Writes new versions; bytes are the kept response of a repeated request."""
        ...

    async def document(
        self, tenant: str, kind: int, name: str, version: int
    ) -> StoredDocument | None:
        """One version, the newest if 0; the tenant's own hides the system's."""
        ...

    async def documents(
        self, tenant: str, kind: int, names: Sequence[str], after: str, limit: int
    ) -> Sequence[StoredDocument]:
        """Newest versions by name, after a name."""
        ...

    async def delete_document(self, tenant: str, kind: int, name: str) -> bool:
        """Hides a document; False if the tenant has none of that name."""
        ...

    async def add_key(
        self, key: ApiKey, secret_hash: bytes, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """Keeps a key; bytes are the kept response of a repeated request."""
        ...

    async def key_by_hash(self, secret_hash: bytes) -> ApiKey | None:
        """The key whose secret has this hash."""
        ...

    async def keys_exist(self) -> bool:
        """True if any tenant has a key, revoked ones included: revoking the last one must not make
        the mesh anonymous again."""
        ...

    async def keys(
        self, tenant: str, before: tuple[Instant, str] | None, limit: int
    ) -> Sequence[ApiKey]:
        """The tenant's keys, newest first."""
        ...

    async def revoke_key(self, tenant: str, key_id: str) -> ApiKey | None:
        """Makes a key useless; None if the tenant has no such key."""
        ...
