"""The life of a run: waking, leasing, ending, and what the conversation shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from . import resolving, workspaces
from .changes import Transition
from .copying import replace
from .events import RunEnded, RunStarted, RunStatusChanged, TurnDiscarded
from .model import ConversationStatus, EndReason, Instant, Micros, Origin, Run, RunStatus, WaitKind
from .rejections import already_ended, stale_fence, turn_gap
from .usage import NO_USAGE, Usage

_SHOWN = {
    RunStatus.RUNNABLE: ConversationStatus.RUNNING,
    RunStatus.LEASED: ConversationStatus.RUNNING,
    RunStatus.WAITING: ConversationStatus.WAITING,
    RunStatus.PAUSED: ConversationStatus.PAUSED,
    RunStatus.COMPLETED: ConversationStatus.COMPLETED,
    RunStatus.FAILED: ConversationStatus.FAILED,
    RunStatus.CANCELLED: ConversationStatus.CANCELLED,
    RunStatus.DEAD_LETTER: ConversationStatus.FAILED,
}
_SHOWN_AT_WORK = ConversationStatus.RUNNING


def shown_status(run: Run, live: Mapping[str, Run] = MappingProxyType({})) -> ConversationStatus:
    """What a conversation shows for its newest root run. One that waits for others is at work
    unless each of those waits, for people or for a time."""
    if run.status is not RunStatus.WAITING or run.waiting_for is not WaitKind.CHILDREN:
        return _SHOWN[run.status]
    below = [one for one in live.values() if one.parent_run_id == run.run_id]
    shown = {shown_status(one, live) for one in below if not one.status.ended}
    return ConversationStatus.WAITING if shown == {ConversationStatus.WAITING} else _SHOWN_AT_WORK


def reflect(transition: Transition) -> None:
    """Brings the conversation's own columns in line with its newest root run."""
    conversation = transition.conversation
    run = transition.runs.get(conversation.root_run_id)
    if run is None:
        return
    reflected = replace(
        conversation,
        status=shown_status(run, transition.runs),
        completed_at=run.ended_at,
        summary=run.summary if run.status.ended else conversation.summary,
    )
    if reflected != conversation:
        transition.conversation = reflected
    if reflected.status in (ConversationStatus.WAITING, ConversationStatus.PAUSED):
        transition.rest(run)


def require_current(run: Run, fence: int) -> None:
    """Refuses a caller whose lease was taken away, and one whose run has ended."""
    if fence != run.fence:
        raise stale_fence(run.run_id, fence, run.fence)
    if run.status.ended:
        raise already_ended("run", run.run_id, run.status.name)


def require_turn(run: Run, turn: int) -> None:
    """Refuses a write for any turn but the one under way."""
    if turn != run.turn + 1:
        raise turn_gap(run.run_id, turn, run.turn + 1)


def granted(run: Run, worker_id: str, lease: Micros, now: Instant) -> Run:
    """The run under a new lease: every earlier one is void."""
    return replace(
        run,
        status=RunStatus.LEASED,
        fence=run.fence + 1,
        attempt=run.attempt + 1,
        lease_worker=worker_id,
        lease_until=now + lease,
        runnable_at=None,
        detail="",
    )


def runnable(run: Run, at: Instant) -> Run:
    """The run waiting for a worker from then on."""
    return replace(
        run,
        status=RunStatus.RUNNABLE,
        runnable_at=at,
        waiting_for=WaitKind.NONE,
        detail="",
        wake_at=None,
        lease_until=None,
    )


def wake(transition: Transition, run: Run, origin: Origin) -> Run:
    """Lets a waiting or paused run go on."""
    woken = transition.put(runnable(run, transition.now))
    transition.append(
        RunStatusChanged(RunStatus.RUNNABLE, WaitKind.NONE, ""), origin, run.run_id, run.turn
    )
    return woken


def still_waits(transition: Transition, run: Run) -> bool:
    """True if what the run waits for has not come yet."""
    match run.waiting_for:
        case WaitKind.INPUT:
            return not run.has_unread
        case WaitKind.APPROVAL:
            return run.pending_approvals > 0
        case WaitKind.CHILDREN:
            return bool(live_children(transition, run))
        case WaitKind.TIMER:
            return run.wake_at is None or run.wake_at > transition.now
        case WaitKind.NONE:
            return False


def go_on_if_free(transition: Transition, run: Run, origin: Origin) -> Run:
    """Lets a waiting run go on if what it waits for came."""
    if run.status is RunStatus.WAITING and not still_waits(transition, run):
        return wake(transition, run, origin)
    return run


def pause(transition: Transition, run: Run, origin: Origin) -> Run:
    """Stops a run that nobody holds. What it waits for is kept for its resumption."""
    paused = transition.put(
        replace(
            run,
            status=RunStatus.PAUSED,
            pause_requested=False,
            runnable_at=None,
            lease_until=None,
        )
    )
    transition.append(
        RunStatusChanged(RunStatus.PAUSED, run.waiting_for, ""), origin, run.run_id, run.turn
    )
    return paused


def charge_lost_work(transition: Transition, run: Run) -> Run:
    """Charges what open steps had reserved, as an estimate: their real cost is not known."""
    if run.reserved == NO_USAGE:
        return run
    charged = add_usage(transition, run, replace(run.reserved, estimated=True))
    return transition.put(replace(charged, reserved=NO_USAGE))


def turn_closed(run: Run, turn: int) -> Run:
    """The run between two turns."""
    return replace(
        run,
        turn=turn,
        attempt=0,
        turn_steps=0,
        turn_usage=NO_USAGE,
        turn_messages=(),
        reserved=NO_USAGE,
        lease_worker="",
        lease_until=None,
        suspension="",
    )


def let_go_of_what_it_asked(transition: Transition, run: Run, turn: int, origin: Origin) -> Run:
    """Ends what a turn was suspended for and that has not come: its turn is over."""
    if not run.suspension:
        return run
    end_children(transition, run, origin, "the turn that started it is over", turn=turn)
    return resolving.withdraw(transition, transition.run(run.run_id), origin, turn, suspended=True)


def discard_turn(transition: Transition, run: Run, reason: str, origin: Origin) -> Run:
    """Gives up the turn under way, if one has begun; its number is used up."""
    begun = run.status is RunStatus.LEASED or run.turn_steps > 0 or run.turn_messages
    if not begun and not run.suspension:
        return run
    turn = run.turn + 1
    run = transition.raise_fence(run, reason)
    run = charge_lost_work(transition, run)
    run = let_go_of_what_it_asked(transition, run, turn, origin)
    run = resolving.withdraw(transition, run, origin, turn)
    transition.append(TurnDiscarded(reason, run.turn_messages), origin, run.run_id, turn)
    run = replace(turn_closed(run, turn), last_message=run.committed_message)
    run = transition.put(runnable(run, transition.now))
    run = workspaces.go_back(transition, run, workspaces.as_before_turn(turn), origin)
    return pause(transition, run, origin) if run.pause_requested else run


def start(transition: Transition, run: Run, origin: Origin) -> Run:
    """Adds a run and makes it runnable; as a root it becomes the conversation's newest."""
    started = transition.put(runnable(run, transition.now))
    if run.is_root:
        transition.conversation = replace(transition.conversation, root_run_id=run.run_id)
    transition.append(
        RunStarted(
            run.root_run_id, run.parent_run_id, run.max_rounds, run.traceparent, run.agent_path
        ),
        origin,
        run.run_id,
    )
    return started


def succeed(
    transition: Transition,
    ended: Run,
    run_id: str,
    traceparent: str,
    origin: Origin,
    *,
    rounds: int = 0,
) -> Run:
    """Starts a new root run that goes on from where an ended one left off, with so many of its
    rounds taken."""
    fresh = Run(
        tenant=ended.tenant,
        run_id=run_id,
        conversation_id=ended.conversation_id,
        root_run_id=run_id,
        definition_digest=ended.definition_digest,
        started_at=transition.now,
        max_rounds=ended.max_rounds,
        rounds=rounds,
        timeout=ended.timeout,
        deadline=deadline_of(transition.now, ended.timeout, ended.budget.max_wall_time),
        budget=ended.budget,
        traceparent=traceparent,
        priority=ended.priority,
        human_input=ended.human_input,
        checkpoint_id=ended.checkpoint_id,
        inbox_read=ended.inbox_read,
    )
    started = start(transition, fresh, origin)
    transition.move_inputs(ended, run_id)
    started = transition.run(started.run_id)
    return workspaces.go_back(transition, started, workspaces.AS_LAST_COMMITTED, origin)


def deadline_of(
    now: Instant, timeout: Micros | None, max_wall_time: Micros | None
) -> Instant | None:
    """The earlier of the two limits, as a point in time."""
    limits = [limit for limit in (timeout, max_wall_time) if limit is not None]
    return now + min(limits) if limits else None


def end(
    transition: Transition,
    run: Run,
    status: RunStatus,
    reason: EndReason,
    detail: str,
    origin: Origin,
    *,
    summary: str = "",
    tell_parent: bool = True,
) -> Run:
    """Ends a run, its live children first, and tells the parent, which goes on if it waited for
    this child alone."""
    end_children(transition, run, origin)
    run = charge_lost_work(transition, transition.run(run.run_id))
    run = resolving.withdraw(transition, run, origin)
    summary = summary or transition.last_words(run)
    ended = transition.put(
        replace(
            turn_closed(run, run.turn),
            status=status,
            end_reason=reason,
            detail=detail,
            summary=summary,
            ended_at=transition.now,
            waiting_for=WaitKind.NONE,
            runnable_at=None,
            wake_at=None,
            pause_requested=False,
        )
    )
    sequence = transition.append(
        RunEnded(status, reason, detail, summary, ended.usage, run.agent_path),
        origin,
        run.run_id,
        run.turn,
    )
    if tell_parent:
        _tell_parent(transition, ended, sequence, origin)
    return ended


def end_by_force(
    transition: Transition,
    run: Run,
    status: RunStatus,
    reason: EndReason,
    detail: str,
    origin: Origin,
    *,
    tell_parent: bool = True,
) -> Run:
    """Ends a run and its whole tree from outside: children first, every fence raised."""
    end_children(transition, run, origin, detail)
    raised = transition.raise_fence(transition.run(run.run_id), reason.name.lower())
    return end(transition, raised, status, reason, detail, origin, tell_parent=tell_parent)


def live_children(transition: Transition, run: Run) -> list[Run]:
    """Those that the run started and that have not ended."""
    return [
        child
        for child in transition.runs.values()
        if child.parent_run_id == run.run_id and not child.status.ended
    ]


def end_children(
    transition: Transition,
    run: Run,
    origin: Origin,
    why: str = "the run that started it ended",
    turn: int | None = None,
) -> None:
    """Cancels what the run started; it hears nothing of it. With `turn` only what that turn was
    suspended for."""
    for child in live_children(transition, run):
        if turn is not None and child.asked_in_turn != turn:
            continue
        end_by_force(
            transition,
            child,
            RunStatus.CANCELLED,
            EndReason.CANCELLED,
            why,
            origin,
            tell_parent=False,
        )


def _tell_parent(transition: Transition, run: Run, sequence: int, origin: Origin) -> None:
    parent = transition.runs.get(run.parent_run_id) if run.parent_run_id else None
    if parent is None or parent.status.ended:
        return
    if not run.asked_in_turn:
        parent = transition.add_input(parent.run_id, sequence)
    if parent.waiting_for is WaitKind.CHILDREN:
        go_on_if_free(transition, parent, origin)


def ancestors(known: Mapping[str, Run], run: Run) -> list[Run]:
    """The runs above a run, the nearest first."""
    above = []
    while run.parent_run_id:
        run = known[run.parent_run_id]
        above.append(run)
    return above


def add_usage(
    transition: Transition, run: Run, usage: Usage, agent: str = "", model: str = ""
) -> Run:
    """Books consumption on the run, its turn, the runs above, the conversation and the ledger."""
    transition.consume(usage, agent, model)
    for above in ancestors(transition.runs, run):
        transition.put(replace(above, usage=above.usage.plus(usage)))
    return transition.put(
        replace(run, usage=run.usage.plus(usage), turn_usage=run.turn_usage.plus(usage))
    )
