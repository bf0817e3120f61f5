"""What can happen in a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from meshkit.roles import Role

from .approvals import ApprovalStatus, AskedApproval
from .model import EndReason, Instant, Micros, Origin, RunStatus, WaitKind
from .usage import Usage


@dataclass(frozen=True, slots=True)
class ConversationStarted:
    """The conversation came into being."""

    kind: ClassVar[str] = "conversation_started"
    task: str
    agents: tuple[str, ...]
    workflow: str
    principal: str


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run came into being."""

    kind: ClassVar[str] = "run_started"
    root_run_id: str
    parent_run_id: str
    max_rounds: int
    traceparent: str
    agent: str = ""


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A person or a program said something. `parts` are further parts, opaque here.

    `blobs` are the (digest, size) of what those refer to. `abridged` means that `content` is only
    the beginning, and the first part the whole.
    """

    kind: ClassVar[str] = "message"
    message_id: str
    agent: str
    content: str
    author: str
    parts: tuple[object, ...] = ()
    blobs: tuple[tuple[str, int], ...] = ()
    abridged: bool = False


@dataclass(frozen=True, slots=True)
class TurnCommitted:
    """A turn was committed."""

    kind: ClassVar[str] = "turn_committed"
    usage: Usage
    steps: int
    speaker: str
    workspace_generation: int = 0


@dataclass(frozen=True, slots=True)
class TurnDiscarded:
    """A turn was given up; `message_ids` no longer count."""

    kind: ClassVar[str] = "turn_discarded"
    reason: str
    message_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunStatusChanged:
    """A run goes on, waits, or is paused."""

    kind: ClassVar[str] = "run_status_changed"
    status: RunStatus
    waiting_for: WaitKind
    detail: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run ended."""

    kind: ClassVar[str] = "run_ended"
    status: RunStatus
    reason: EndReason
    detail: str
    summary: str
    usage: Usage
    agent: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalResolved:
    """A decision or an answer came, or nobody waits for it any more. `agent` is who asked."""

    kind: ClassVar[str] = "approval_resolved"
    approval_id: str
    status: ApprovalStatus
    principal: str
    comment: str
    edited_arguments_json: str
    agent: str


@dataclass(frozen=True, slots=True)
class ApprovalEscalated:
    """Nobody decided for a while: from now on another role may. `agent` is who asked."""

    kind: ClassVar[str] = "approval_escalated"
    approval_id: str
    role: Role
    previous_role: Role
    agent: str


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt at a turn failed and will be repeated after `retry_after`."""

    kind: ClassVar[str] = "attempt_failed"
    attempt: int
    detail: str
    retry_after: Micros
    reason: EndReason


@dataclass(frozen=True, slots=True)
class ConversationUpdated:
    """Labels changed."""

    kind: ClassVar[str] = "conversation_updated"
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ConversationForked:
    """The conversation was made of another one's history, up to an event of it."""

    kind: ClassVar[str] = "conversation_forked"
    source_id: str
    sequence: int
    principal: str


@dataclass(frozen=True, slots=True)
class WorkspaceRestored:
    """The files were put back to an earlier state; `text` says so to the team."""

    kind: ClassVar[str] = "workspace_restored"
    generation: int
    restored_generation: int
    previous_generation: int
    text: str


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """What a worker recorded: a payload that only the adapters read.

    `speaks` is true for an agent's message with words in it: what a summary may be made of.
    `blobs` are the (digest, size) of what it refers to; `approval` is what it asks for, if it does.
    `said` is the text of a message; `stands_for` the first and last sequence of the events that a
    summary may stand for.
    """

    kind: str
    payload: object
    agent: str = ""
    message_id: str = ""
    speaks: bool = False
    blobs: tuple[tuple[str, int], ...] = ()
    approval: AskedApproval | None = None
    said: str = ""
    stands_for: tuple[int, int] | None = None


EventBody = (
    ConversationStarted
    | RunStarted
    | UserMessage
    | TurnCommitted
    | TurnDiscarded
    | RunStatusChanged
    | RunEnded
    | AttemptFailed
    | ConversationUpdated
    | ConversationForked
    | ApprovalResolved
    | ApprovalEscalated
    | WorkspaceRestored
    | WorkerEvent
)
_WITH_AGENT = (
    UserMessage,
    WorkerEvent,
    RunStarted,
    RunEnded,
    ApprovalResolved,
    ApprovalEscalated,
)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event with its place in the log, not yet written."""

    conversation_id: str
    sequence: int
    time: Instant
    origin: Origin
    body: EventBody
    run_id: str = ""
    turn: int = 0

    @property
    def message_id(self) -> str:
        """The message this event finishes, if it is one."""
        return self.body.message_id if isinstance(self.body, UserMessage | WorkerEvent) else ""

    @property
    def blobs(self) -> tuple[tuple[str, int], ...]:
        """The digest and size of everything that it refers to."""
        return self.body.blobs if isinstance(self.body, UserMessage | WorkerEvent) else ()

    @property
    def said(self) -> str:
        """What search finds it by."""
        match self.body:
            case ConversationStarted(task=text) | UserMessage(content=text):
                return text
            case WorkerEvent(said=text):
                return text
        return ""

    @property
    def agent(self) -> str:
        """Whom it is about: who speaks or asks, or the path of a child."""
        return self.body.agent if isinstance(self.body, _WITH_AGENT) else ""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of the log: what filters look at, and the serialized whole."""

    sequence: int
    kind: str
    run_id: str
    agent: str
    message_id: str
    turn: int
    data: bytes
