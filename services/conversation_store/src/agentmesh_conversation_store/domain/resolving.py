"""What an approval's end does to the run that asked, and what time does to an approval."""

from __future__ import annotations

from .approvals import Approval, ApprovalStatus
from .changes import Transition
from .copying import replace
from .events import ApprovalEscalated, ApprovalResolved
from .model import Instant, Origin, Run

NOBODY_DECIDED = "Nobody decided in time; what asked for it lets it pass then."


def settle(transition: Transition, approval: Approval, origin: Origin, *, tell: bool = True) -> Run:
    """Keeps an approval as it was resolved; with `tell` the run that asked gets it as an input,
    unless its turn is suspended for it: that finds it in its grant."""
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
    if not tell or approval.within_turn:
        return run
    return transition.add_input(run.run_id, sequence)


def withdraw(
    transition: Transition,
    run: Run,
    origin: Origin,
    turn: int | None = None,
    *,
    suspended: bool = False,
) -> Run:
    """Cancels what the run still asks for, in one turn or in all; with `suspended` only what a turn
    is suspended for."""
    for approval in transition.pending_approvals(run):
        of_turn = turn is None or approval.turn == turn
        if of_turn and (approval.within_turn or not suspended):
            cancelled = replace(approval, status=ApprovalStatus.CANCELLED)
            run = settle(transition, cancelled, origin, tell=False)
    return run


def any_due(transition: Transition, run: Run) -> bool:
    """True if the run asks for something that nobody answered in time."""
    return any(_is_due(a, transition.now) for a in transition.pending_approvals(run))


def keep_time(transition: Transition, run: Run) -> Run:
    """Ends what the run asks for and nobody answered in time, or hands it to another role."""
    now = transition.now
    for approval in transition.pending_approvals(run):
        if approval.expires_at <= now:
            run = _expire(transition, approval)
        elif _is_due(approval, now):
            _escalate(transition, approval)
    return run


def _is_due(approval: Approval, now: Instant) -> bool:
    return approval.expires_at <= now or approval.role_at(now) is not approval.role


def _expire(transition: Transition, approval: Approval) -> Run:
    ended = replace(approval, status=ApprovalStatus.EXPIRED)
    if approval.approve_on_expiry:
        ended = replace(approval, status=ApprovalStatus.APPROVED, comment=NOBODY_DECIDED)
    return settle(transition, ended, Origin.STORE)


def _escalate(transition: Transition, approval: Approval) -> None:
    role = approval.role_at(transition.now)
    transition.put_approval(
        replace(approval, role=role, escalate_at=None, escalated_at=transition.now)
    )
    transition.append(
        ApprovalEscalated(approval.approval_id, role, approval.role, approval.agent),
        Origin.STORE,
        approval.run_id,
        approval.turn,
    )
