"""What waits for a person: asked for by a worker, decided once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .model import Instant, Role


class ApprovalStatus(IntEnum):
    """Where an approval stands."""

    PENDING = 1
    APPROVED = 2
    EDITED = 3
    REJECTED = 4
    ANSWERED = 5
    EXPIRED = 6
    CANCELLED = 7


@dataclass(frozen=True, slots=True)
class AskedApproval:
    """What a worker asks for. `tool_call` is opaque; empty for a question in words."""

    approval_id: str
    prompt: str
    tool_call: bytes
    expires_at: Instant
    role: Role


@dataclass(frozen=True, slots=True)
class Approval:
    """A request to a person, with its answer once there is one.

    `turn` is the turn that asked, `requested_sequence` the event with which it did.
    """

    tenant: str
    approval_id: str
    conversation_id: str
    run_id: str
    turn: int
    agent: str
    prompt: str
    tool_call: bytes
    requested_at: Instant
    requested_sequence: int
    expires_at: Instant
    role: Role
    status: ApprovalStatus = ApprovalStatus.PENDING
    principal: str = ""
    comment: str = ""
    edited_arguments_json: str = ""
    resolved_at: Instant | None = None
