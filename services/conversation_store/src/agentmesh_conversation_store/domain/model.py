"""The things that the store keeps, as plain values.

Points in time are `Instant`s: microseconds since 1970 by the storage's clock. Spans of time are
microseconds too. Enum values equal those of the contracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from .usage import NO_USAGE, Budget, Usage

Instant = int
Micros = int

SECOND: Micros = 1_000_000


class RunStatus(IntEnum):
    """Where a run stands."""

    RUNNABLE = 1
    LEASED = 2
    WAITING = 3
    PAUSED = 4
    COMPLETED = 5
    FAILED = 6
    CANCELLED = 7
    DEAD_LETTER = 8

    @property
    def ended(self) -> bool:
        """True once no event of the run can follow."""
        return self >= RunStatus.COMPLETED


class ConversationStatus(IntEnum):
    """Where a conversation stands: a view of its newest root run."""

    RUNNING = 1
    WAITING = 2
    PAUSED = 3
    COMPLETED = 4
    FAILED = 5
    CANCELLED = 6

    @property
    def ended(self) -> bool:
        """True while no run is under way."""
        return self >= ConversationStatus.COMPLETED


class EndReason(IntEnum):
    """Why a run ended."""

    NONE = 0
    TERMINATED = 1
    MAX_ROUNDS = 2
    CANCELLED = 3
    DEADLINE = 4
    BUDGET = 5
    MODEL_ERROR = 6
    MODEL_CREDENTIALS = 7
    INVALID_DEFINITION = 8
    REPLAY_DIVERGED = 9
    STALLED = 10
    EXPIRED = 11
    INTERNAL = 12
    ATTEMPTS_EXHAUSTED = 13


class WaitKind(IntEnum):
    """What a waiting run waits for."""

    NONE = 0
    INPUT = 1
    APPROVAL = 2
    CHILDREN = 3
    TIMER = 4


class StepKind(IntEnum):
    """What kind of effect a step is."""

    MODEL = 1
    TOOL = 2
    OTHER = 3


class StepState(IntEnum):
    """Where a step stands, as seen by one caller."""

    CLAIMED = 1
    RECORDED = 2
    ORPHANED = 3


class Origin(IntEnum):
    """Who recorded an event."""

    API = 1
    RUNTIME = 2
    TOOL_RUNNER = 3
    STORE = 4


class Strategy(IntEnum):
    """What becomes of the turn under way when a message comes."""

    AFTER_TURN = 1
    INTERRUPT = 2
    REPLACE_TURN = 3
    REJECT_IF_RUNNING = 4


class Visibility(IntEnum):
    """Who may read a conversation besides those who have a right of their own."""

    PRIVATE = 1
    TENANT = 2


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a team over a conversation.

    `fence` rises with every grant, cancel, pause and interrupt; writes under a lower one are
    refused. `inbox_head` is the newest input, `inbox_read` the newest that a committed turn read.
    The `turn_…` fields describe the turn under way, `reserved` what its open steps may cost.
    `usage` is that of the run and those below it; `agent_path` is where a child's agents appear.
    `suspension` says under which fence and with what the turn under way was suspended last, if it
    was; `asked_in_turn` is the turn of its parent that was suspended for a child.
    """

    tenant: str
    run_id: str
    conversation_id: str
    root_run_id: str
    definition_digest: str
    started_at: Instant
    max_rounds: int
    parent_run_id: str = ""
    status: RunStatus = RunStatus.RUNNABLE
    waiting_for: WaitKind = WaitKind.NONE
    end_reason: EndReason = EndReason.NONE
    detail: str = ""
    turn: int = 0
    rounds: int = 0
    ended_at: Instant | None = None
    deadline: Instant | None = None
    timeout: Micros | None = None
    usage: Usage = NO_USAGE
    budget: Budget = field(default_factory=Budget)
    traceparent: str = ""
    summary: str = ""
    attempt: int = 0
    priority: int = 0
    fence: int = 0
    runnable_at: Instant | None = None
    wake_at: Instant | None = None
    lease_worker: str = ""
    lease_until: Instant | None = None
    pause_requested: bool = False
    human_input: bool = False
    inbox_head: int = 0
    inbox_read: int = 0
    checkpoint_id: str = ""
    last_message: int = 0
    committed_message: int = 0
    turn_steps: int = 0
    turn_usage: Usage = NO_USAGE
    turn_messages: tuple[str, ...] = ()
    reserved: Usage = NO_USAGE
    agent_path: str = ""
    pending_approvals: int = 0
    suspension: str = ""
    asked_in_turn: int = 0

    @property
    def has_unread(self) -> bool:
        """True if an input came that no committed turn read."""
        return self.inbox_head > self.inbox_read

    @property
    def is_root(self) -> bool:
        """True for the run at the top of its tree."""
        return self.run_id == self.root_run_id


@dataclass(frozen=True, slots=True)
class Conversation:
    """The changing part of a conversation. `version` rises with every change.

    `size_bytes` and `message_count` count all that was ever in its log, what it shares with another
    included; `removed_bytes` are no longer there. The `workspace_…`, `kept_…` and `before_…` fields
    are the states of its files (see `workspaces`), `runner_address` where they are open.
    What has no `owner` is older than owners are.
    """

    tenant: str
    conversation_id: str
    started_at: Instant
    root_run_id: str
    status: ConversationStatus = ConversationStatus.RUNNING
    completed_at: Instant | None = None
    summary: str = ""
    head_sequence: int = 0
    oldest_sequence: int = 1
    usage: Usage = NO_USAGE
    size_bytes: int = 0
    message_count: int = 0
    version: int = 0
    removed_bytes: int = 0
    last_event_at: Instant = 0
    workspace_generation: int = 0
    workspace_manifest: str = ""
    kept_generation: int = 0
    kept_manifest: str = ""
    before_generation: int = 0
    before_manifest: str = ""
    runner_address: str = ""
    owner: str = ""
    visibility: Visibility = Visibility.TENANT

    @property
    def etag(self) -> str:
        """Changes whenever the conversation changes."""
        return f"v{self.version}"

    @property
    def kept_bytes(self) -> int:
        """The size of the events that are still there."""
        return self.size_bytes - self.removed_bytes


@dataclass(frozen=True, slots=True)
class ConversationFacts:
    """The part of a conversation that seldom or never changes.

    Retention that is None is as the tenant's policy says.
    """

    task: str
    agents: tuple[str, ...] = ()
    workflow: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    forked_from: str = ""
    forked_at: int = 0
    legal_hold: bool = False
    retention_age: Micros | None = None
    retention_events: int | None = None


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation as it is shown, with its newest root run."""

    conversation: Conversation
    facts: ConversationFacts
    run: Run


@dataclass(frozen=True, slots=True)
class Step:
    """One effect of a turn. `record` holds the digest of each recorded part, by its name."""

    run_id: str
    turn: int
    step_key: str
    kind: StepKind
    request_digest: bytes
    fence: int
    attempt_id: str
    recorded: bool = False
    result: bytes = b""
    encoding: str = ""
    key_id: str = ""
    reservation: Usage = NO_USAGE
    record: Mapping[str, str] = field(default_factory=dict)
    first_sequence: int = 0
    last_sequence: int = 0

    def state_for(self, fence: int) -> StepState:
        """How a caller under `fence` sees the step."""
        if self.recorded:
            return StepState.RECORDED
        return StepState.CLAIMED if self.fence == fence else StepState.ORPHANED


@dataclass(frozen=True, slots=True)
class CommittedTurn:
    """What is remembered of a committed turn, to answer the same commit again."""

    run_id: str
    turn: int
    fence: int
    content: Mapping[str, str]
    status: RunStatus
    last_sequence: int
    checkpoint_id: str
    previous_checkpoint_id: str
    message_ids: tuple[str, ...] = ()
    previous_message: int = 0
    previous_read: int = 0
    discarded: bool = False
    next_fence: int = 0


@dataclass(frozen=True, slots=True)
class BlobReference:
    """An event that refers to bytes which are kept outside of the log, by their digest."""

    conversation_id: str
    sequence: int
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class WorkspaceState:
    """The files of a conversation at one time. Without files `manifest` is empty."""

    generation: int = 0
    manifest: str = ""


NO_FILES = WorkspaceState()


@dataclass(frozen=True, slots=True)
class WorkspaceBlob:
    """A blob that files of a manifest lie in. The manifest was made in `conversation_id`, and is
    kept as long as any conversation or milestone names it."""

    manifest: str
    digest: str
    conversation_id: str
    size: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a team between two turns: opaque bytes, perhaps a difference to `base_id`.

    `sequence` is that of the event that says its turn was committed: what lies before it in the log
    is in the state, or unread. `workspace_generation` is that of the files at that time.
    """

    checkpoint_id: str
    run_id: str
    turn: int
    data: bytes
    encoding: str = ""
    key_id: str = ""
    base_id: str = ""
    conversation_id: str = ""
    sequence: int = 0
    workspace_generation: int = 0


@dataclass(frozen=True, slots=True)
class RaisedFence:
    """A fence raised by a person or the store; work under a lower one must stop. `worker_id` held
    the lease that it voids, if one did. With `rests` the conversation waits, and nothing need be
    held for it."""

    tenant: str
    conversation_id: str
    run_id: str
    fence: int
    reason: str
    raised_at: Instant
    worker_id: str = ""
    rests: bool = False
