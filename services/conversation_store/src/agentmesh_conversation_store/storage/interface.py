"""What the store needs of a database. Every adapter passes the same conformance suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from agentmesh_conversation_store.domain.access import SYSTEM, Caller
from agentmesh_conversation_store.domain.approvals import Approval, ApprovalStatus
from agentmesh_conversation_store.domain.changes import Command
from agentmesh_conversation_store.domain.events import NewEvent, StoredEvent
from agentmesh_conversation_store.domain.model import (
    NO_FILES,
    BlobReference,
    Checkpoint,
    Conversation,
    ConversationStatus,
    ConversationView,
    Instant,
    Micros,
    RaisedFence,
    Run,
    Step,
    WorkspaceState,
)
from agentmesh_conversation_store.domain.search import TextQuery

from .audit import AuditLog
from .catalog import Catalog
from .claims import Claims
from .history import History
from .ledger import Ledger
from .requests import Request
from .sharing import Sharing
from .transfer import Transfer

R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)


class EventCodec(Protocol):
    """Turns events into the bytes that are kept and sent, once."""

    def encode(self, event: NewEvent) -> bytes:
        """The serialized event."""
        ...

    def belonging_to(self, data: bytes, conversation_id: str) -> bytes:
        """The same event as one of a fork, which shares it."""
        ...

    def words(self, data: bytes) -> str:
        """What was said, if the event is a message; the task, if it says that one began."""
        ...


@dataclass(frozen=True, slots=True)
class Committed:
    """One committed operation, in commit order: what subscribers and workers should hear."""

    tenant: str
    conversation_id: str
    conversation: Conversation | None
    runs: Sequence[Run] = ()
    events: Sequence[StoredEvent] = ()
    fences: Sequence[RaisedFence] = ()
    deleted: bool = False
    cut: bool = False


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
    """A page of conversations, newest first. `before` is (started_at, conversation_id).

    `text` finds those where one message, or the task, fits it. Only what `caller` may read is
    found.
    """

    limit: int
    before: tuple[Instant, str] | None = None
    statuses: Sequence[ConversationStatus] = ()
    agent: str = ""
    started_after: Instant | None = None
    started_before: Instant | None = None
    text: TextQuery | None = None
    owner: str = ""
    caller: Caller = SYSTEM


@dataclass(frozen=True, slots=True)
class ApprovalQuery:
    """A page of approvals, oldest first. `after` is (requested_at, approval_id). Only those of
    conversations that `caller` may read."""

    limit: int
    after: tuple[Instant, str] | None = None
    conversation_id: str = ""
    status: ApprovalStatus | None = None
    caller: Caller = SYSTEM


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log ends. `active` is true while a run is under way."""

    sequence: int
    oldest: int
    active: bool


LINK_BYTES = 256  # what a checkpoint takes in a message beside its data, with room to spare


@dataclass(frozen=True, slots=True)
class CheckpointLink:
    """One checkpoint of a chain, and the bytes of its data."""

    checkpoint_id: str
    size: int

    @property
    def weight(self) -> int:
        """What it takes in a message."""
        return self.size + LINK_BYTES


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """An event with its place among all events of its tenant, in the order of their commits."""

    position: int
    conversation_id: str
    event: StoredEvent


@dataclass(frozen=True, slots=True)
class FeedPage:
    """A part of a tenant's feed: the events of it that may be read. All up to `through` have been
    looked at, and the feed ends at `head`."""

    events: Sequence[FeedEvent]
    through: int
    head: int


@dataclass(frozen=True, slots=True)
class GrantedTurn:
    """A run under a new lease with all that its worker needs.

    `chain` holds the checkpoint that the run stands at after those that it follows, oldest first;
    it is empty if there is none, and if it was too large or not asked for. `approvals` and
    `children` are what the turn was suspended for; `workspace` is where the files stand and
    `runner_address` where they are open.
    """

    run: Run
    definition: bytes
    chain: Sequence[Checkpoint]
    steps: Sequence[Step]
    inputs: Sequence[StoredEvent]
    head_sequence: int
    message_count: int
    approvals: Sequence[Approval] = ()
    children: Sequence[Run] = ()
    workspace: WorkspaceState = NO_FILES
    runner_address: str = ""


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


class Storage(AuditLog, Catalog, Claims, Ledger, History, Sharing, Transfer, Protocol):
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

    async def definition(self, tenant: str, digest: str) -> bytes:
        """What runs pinned; empty if the tenant has none of this digest."""
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

    async def context_marks(
        self, tenant: str, conversation_id: str, through: int
    ) -> Sequence[StoredEvent]:
        """The summaries and discarded turns of a log up to a sequence, in order."""
        ...

    async def tail(
        self, tenant: str, conversation_id: str, limit: int
    ) -> tuple[Head, Sequence[StoredEvent]]:
        """Where the log ends, with its newest events, read at one point in time."""
        ...

    async def heads(self, conversations: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Head]:
        """Where many logs end, in one query. Those that do not exist are left out."""
        ...

    async def feed(
        self, tenant: str, after: int, limit: int, max_bytes: int, caller: Caller = SYSTEM
    ) -> FeedPage:
        """Events of all conversations of a tenant that the caller may read, after a position of its
        feed. A page may have none although there are some later: it says how far it looked. Nothing
        will ever be committed below a position that was seen."""
        ...

    async def feed_heads(self, tenants: Sequence[str]) -> dict[str, int]:
        """Where the feeds of tenants end. Those that never had an event are left out."""
        ...

    async def blob_references(self, tenant: str, conversation_id: str) -> Sequence[BlobReference]:
        """Which events of a conversation refer to which blobs, in the order of the log."""
        ...

    async def referenced_blobs(self, tenant: str, digests: Sequence[str]) -> frozenset[str]:
        """Which of these blobs any event or workspace of the tenant refers to."""
        ...

    async def manifest_blobs(self, tenant: str, manifest: str) -> frozenset[str]:
        """The blobs that files of a manifest lie in; none if no workspace names it."""
        ...

    async def approval(
        self, tenant: str, approval_id: str, caller: Caller = SYSTEM
    ) -> Approval | None:
        """One approval, of a conversation that the caller may read."""
        ...

    async def approvals(self, tenant: str, query: ApprovalQuery) -> Sequence[Approval]:
        """A page of approvals."""
        ...

    async def grant(self, demand: dict[str, int], lease: Micros) -> Sequence[Run]:
        """Leases runnable runs to workers that have that many free places: fair between
        tenants, by priority within one, oldest first."""
        ...

    async def granted_turns(
        self, runs: Sequence[Run], most_chain_bytes: int
    ) -> Sequence[GrantedTurn]:
        """What the workers of freshly leased runs need. Chains of checkpoints that are larger are
        left out."""
        ...

    async def checkpoint_links(
        self, tenant: str, run_id: str, fence: int, checkpoint_id: str
    ) -> Sequence[CheckpointLink]:
        """The chain that a run stands at, oldest first, for the holder of its lease. Refuses a
        fence that is not the run's."""
        ...

    async def checkpoints(self, tenant: str, checkpoint_ids: Sequence[str]) -> Sequence[Checkpoint]:
        """These checkpoints, in that order."""
        ...

    async def renew(
        self, worker_id: str, held: Sequence[tuple[str, int]], lease: Micros
    ) -> Renewal:
        """Prolongs leases given as (run, fence)."""
        ...

    async def open_lease_stream(self, worker_id: str, stream_id: str) -> None:
        """From now on the worker is heard on this stream, and on no other."""
        ...

    async def end_lease_stream(self, worker_id: str, stream_id: str, keep: Micros) -> None:
        """Lets the leases of a worker end that soon, unless it is back on another stream."""
        ...

    async def due(self, *, expired: bool, limit: int) -> Sequence[Due]:
        """Runs whose timer or deadline passed or who ask people for something whose time is over,
        and if `expired` those whose lease ran out."""
        ...

    async def raised_fences(self, since: Instant) -> Sequence[RaisedFence]:
        """Fences raised since then, oldest first."""
        ...

    async def prune(self) -> bool:
        """Forgets what was kept for a while: requests after 24 h, raised fences after an hour; some
        at a time, and true if there is more."""
        ...
