"""What a runtime is given with a lease: all that one turn needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from agentmesh_agent_runtime.definitions.approval_policies import ApproverRole
from agentmesh_agent_runtime.definitions.specs import TeamSpec
from agentmesh_agent_runtime.turns.images import StoredImage


@dataclass(frozen=True)
class TurnId:
    """One turn under one lease. A write under a lower fence than the run's is refused."""

    run_id: str
    conversation_id: str
    tenant: str
    turn: int
    fence: int


@dataclass(frozen=True)
class Input:
    """Something that was said to the run and not read yet.

    `parts` are texts and images in their order if there are images, which `text` only names.
    """

    sequence: int
    source: str
    text: str
    parts: tuple[str | StoredImage, ...] = ()


class StepKind(StrEnum):
    """What kind of effect a step is."""

    MODEL = "model"
    TOOL = "tool"
    OTHER = "other"


@dataclass(frozen=True)
class KnownStep:
    """A step of this turn from an earlier attempt. `result` is None if it was only claimed."""

    step_key: str
    kind: StepKind
    request_digest: bytes
    attempt_id: str
    result: bytes | None
    encoding: str = ""


@dataclass(frozen=True)
class SavedCheckpoint:
    """State of the team after a turn: whole, or a difference to `base_checkpoint_id`.

    `data` is empty if it did not come with the grant.
    """

    checkpoint_id: str
    data: bytes
    encoding: str
    base_checkpoint_id: str = ""


class Verdict(StrEnum):
    """What became of a request to a person."""

    PENDING = "pending"
    APPROVED = "approved"
    EDITED = "edited"
    REJECTED = "rejected"
    ANSWERED = "answered"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class PersonsWord:
    """Where a request of this turn to a person stands. `text` is a reason or an answer, `person`
    empty if nobody decided, `role` the one that it took."""

    approval_id: str
    verdict: Verdict
    text: str = ""
    edited_arguments_json: str = ""
    person: str = ""
    role: ApproverRole = ApproverRole.USER


@dataclass(frozen=True)
class StartedRun:
    """A run that this turn started when it was suspended. `answer` is what it said in the end;
    one that failed has a `reason`, as the contract names it, and a `detail` for people."""

    path: str
    has_ended: bool
    answer: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Grant:
    """A turn to take. `rounds` counts committed turns of the run, discarded ones left out.

    `base_checkpoints` are those that `checkpoint` follows, oldest first. `heard` and `started` are
    what this turn was suspended for. `path` is where the members of a run appear that works for
    another one; empty for a root. `runner_address` is where the workspace of the conversation is
    open, if that is known.
    """

    id: TurnId
    capability: str
    team: TeamSpec
    checkpoint: SavedCheckpoint | None
    inputs: tuple[Input, ...]
    steps: tuple[KnownStep, ...]
    rounds: int
    max_rounds: int
    human_input: bool
    head_sequence: int
    attempt: int = 0
    deadline: datetime | None = None
    traceparent: str = ""
    base_checkpoints: tuple[SavedCheckpoint, ...] = ()
    heard: tuple[PersonsWord, ...] = ()
    started: tuple[StartedRun, ...] = ()
    path: str = ""
    runner_address: str = ""
