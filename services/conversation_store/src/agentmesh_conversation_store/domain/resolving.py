"""What an approval's end does to the run that asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .approvals import Approval, ApprovalStatus
from .changes import Transition
from .events import ApprovalResolved
from .model import Origin, Run


def settle(transition: Transition, approval: Approval, origin: Origin, *, tell: bool = True) -> Run:
    """Keeps an approval as it was resolved; with `tell` the run that asked gets it as an input."""
    transition.put_approval(replace(approval, resolved_at=transition.now))
    sequence = transition.append(
        ApprovalResolved(
            approval.approval_id,
            approval.status,
            approval.principal,
            approval.comment,
            approval.edited_arguments_json,
            approval.agent,
        ),
        origin,
        approval.run_id,
        approval.turn,
    )
    run = transition.run(approval.run_id)
    run = transition.put(replace(run, pending_approvals=run.pending_approvals - 1))
    return transition.add_input(run.run_id, sequence) if tell else run


def withdraw(transition: Transition, run: Run, origin: Origin, turn: int | None = None) -> Run:
    """Cancels what the run still asks for, in one turn or in all."""

    def wanted(approval: Approval) -> bool:
        return turn is None or approval.turn == turn

    return _settle_all(transition, run, ApprovalStatus.CANCELLED, origin, wanted, tell=False)


def expire(transition: Transition, run: Run) -> Run:
    """Ends what the run asks for and nobody answered in time."""
    return _settle_all(
        transition,
        run,
        ApprovalStatus.EXPIRED,
        Origin.STORE,
        lambda approval: approval.expires_at <= transition.now,
        tell=True,
    )


def any_expired(transition: Transition, run: Run) -> bool:
    """True if the run asks for something whose time ran out."""
    return any(a.expires_at <= transition.now for a in transition.pending_approvals(run))


def _settle_all(
    transition: Transition,
    run: Run,
    status: ApprovalStatus,
    origin: Origin,
    wanted: Callable[[Approval], bool],
    *,
    tell: bool,
) -> Run:
    for approval in filter(wanted, transition.pending_approvals(run)):
        run = settle(transition, replace(approval, status=status), origin, tell=tell)
    return run
