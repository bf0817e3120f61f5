"""What waits for a person: asked for by a worker, decided once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from meshkit.roles import Role

from .model import Instant


class ApprovalStatus(IntEnum):
    """Where an approval stands."""

    PENDING = 1
    APPROVED = 2
    EDITED = 3
    REJECTED = 4
    ANSWERED = 5
    EXPIRED = 6
    CANCELLED = 7


_ID_DIGITS = 32


def approval_id_of(run_id: str, turn: int, tool_call_id: str) -> str:
    """The request about a tool call of a turn that is suspended for it; the contract tells how the
    id is made."""
    name = f"{run_id}/{turn}/{tool_call_id}"
    return f"appr_{hashlib.sha256(name.encode()).hexdigest()[:_ID_DIGITS]}"


@dataclass(frozen=True, slots=True)
class AskedApproval:
    """What a worker asks for. `tool_call` is opaque; empty for a question in words.

    `escalate_to` is the role that may decide from `escalate_at` on.
    """

    approval_id: str
    prompt: str
    tool_call: bytes
    expires_at: Instant
    role: Role
    escalate_at: Instant | None = None
    escalate_to: Role | None = None
    approve_on_expiry: bool = False


@dataclass(frozen=True, slots=True)
class Approval:
    """A request to a person, with its answer once there is one.

    `turn` is the turn that asked, `requested_sequence` the event with which it did; `within_turn`
    if that turn is suspended until there is an answer. `escalate_at` is None once it was escalated.
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
    within_turn: bool = False
    approve_on_expiry: bool = False
    escalate_at: Instant | None = None
    escalate_to: Role | None = None
    escalated_at: Instant | None = None

    def role_at(self, now: Instant) -> Role:
        """The role that may decide then, also if nobody has looked at the clock yet."""
        due = self.escalate_at is not None and self.escalate_at <= now
        return self.escalate_to if due and self.escalate_to is not None else self.role
