"""Why an operation is refused."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Reason(Enum):
    """The reasons of the contracts, by their names there."""

    INVALID_FIELD = "INVALID_FIELD"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    STEP_CONFLICT = "STEP_CONFLICT"
    TURN_CONFLICT = "TURN_CONFLICT"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    STALE_FENCE = "STALE_FENCE"
    TURN_GAP = "TURN_GAP"
    REPLAY_DIVERGED = "REPLAY_DIVERGED"
    STEP_NOT_CLAIMED = "STEP_NOT_CLAIMED"
    WORKSPACE_MOVED = "WORKSPACE_MOVED"
    ALREADY_ENDED = "ALREADY_ENDED"
    RUN_UNDER_WAY = "RUN_UNDER_WAY"
    CHECKPOINT_MISMATCH = "CHECKPOINT_MISMATCH"
    BUILT_IN = "BUILT_IN"
    LEGAL_HOLD = "LEGAL_HOLD"
    HISTORY_REMOVED = "HISTORY_REMOVED"
    BEYOND_HEAD = "BEYOND_HEAD"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    STORAGE_FULL = "STORAGE_FULL"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    CORRUPT = "CORRUPT"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    ROLE_TOO_LOW = "ROLE_TOO_LOW"
    ACCESS_TOO_LOW = "ACCESS_TOO_LOW"
    GRANT_TOO_WIDE = "GRANT_TOO_WIDE"
    ALREADY_DECIDED = "ALREADY_DECIDED"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"


class Rejection(Exception):  # noqa: N818 - a decision, not a defect
    """A typed no. `metadata` is for programs, the message for people; `retry_after` seconds later
    the answer may be another."""

    def __init__(self, reason: Reason, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: Mapping[str, str] = metadata
        self.retry_after: float | None = None
        self.quota: tuple[str, str] | None = None
        """Whose quota is used up, and which."""


def invalid(field: str, message: str) -> Rejection:
    """A field of the request cannot be what it is."""
    return Rejection(Reason.INVALID_FIELD, message, field=field)


def not_found(kind: str, name: str, field: str = "") -> Rejection:
    """There is no such thing, or the caller must not know of it. `field` is what names it."""
    which = {"field": field} if field else {}
    message = f'{kind} "{name}" does not exist'
    return Rejection(Reason.NOT_FOUND, message, kind=kind, name=name, **which)


def stale_fence(run_id: str, fence: int, current: int) -> Rejection:
    """The caller's lease on the run was taken away."""
    return Rejection(
        Reason.STALE_FENCE,
        f"the lease on {run_id} under fence {fence} is void; the current fence is {current}",
        fence=str(fence),
        current_fence=str(current),
        run_id=run_id,
    )


def turn_gap(run_id: str, turn: int, expected: int) -> Rejection:
    """The write is not for the run's current turn."""
    return Rejection(
        Reason.TURN_GAP,
        f"{run_id} is at turn {expected}, not at turn {turn}",
        expected_turn=str(expected),
        run_id=run_id,
    )


def already_ended(kind: str, name: str, status: str) -> Rejection:
    """The conversation or run has ended."""
    return Rejection(
        Reason.ALREADY_ENDED, f"{kind} {name} has ended: {status.lower()}", status=status.lower()
    )
