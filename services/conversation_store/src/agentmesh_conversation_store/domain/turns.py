"""The end of a turn: what a worker commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import resolving, runs, workspaces
from .changes import Changes, Decision, Loaded, Scope, Transition, asked_for
from .children import ChildRun, child_run_id, start_children
from .copying import replace
from .events import RunStatusChanged, TurnCommitted, TurnDiscarded, WorkerEvent
from .history import milestone
from .model import (
    Checkpoint,
    CommittedTurn,
    EndReason,
    Instant,
    Micros,
    Origin,
    Run,
    RunStatus,
    WaitKind,
)
from .rejections import Reason, Rejection, invalid


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """Where a run stands after a commit; `next` is the run under its next lease, if granted."""

    status: RunStatus
    last_sequence: int
    checkpoint_id: str
    next: Run | None = None
    child_run_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NextTurn:
    """The wish for the next turn of the same run, for a worker that may have it."""

    worker_id: str
    lease: Micros


@dataclass(frozen=True, slots=True)
class CommitTurn:
    """Ends a turn in one transaction.

    `content` holds a digest of every field by its name: the same turn with other content is
    refused naming those that differ. `successor_run_id` is used if the run may take no more
    rounds while an input is unread.
    """

    tenant: str
    conversation_id: str
    run_id: str
    fence: int
    turn: int
    content: Mapping[str, str]
    status: RunStatus
    origin: Origin = Origin.RUNTIME
    checkpoint: Checkpoint | None = None
    waiting_for: WaitKind = WaitKind.NONE
    end_reason: EndReason = EndReason.NONE
    detail: str = ""
    last_input_sequence: int = 0
    events: Sequence[WorkerEvent] = ()
    speaker: str = ""
    summary: str = ""
    discard: bool = False
    discarded_message_ids: tuple[str, ...] = ()
    wake_at: Instant | None = None
    next_turn: NextTurn | None = None
    successor_run_id: str = ""
    children: Sequence[ChildRun] = ()

    @property
    def scope(self) -> Scope:
        """The run with its family, and what is remembered of this turn."""
        return Scope(
            self.tenant,
            self.conversation_id,
            run_id=self.run_id,
            live_runs=True,
            last_messages=self.status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.RUNNABLE)
            and not self.summary,
            turn=self.turn,
            rivals=self.next_turn is not None,
            lookups=asked_for(self.events),
        )

    def decide(self, loaded: Loaded, now: Instant) -> Decision[TurnOutcome]:
        """The same commit again answers as the first time."""
        transition = Transition(loaded, self.scope, now)
        run = transition.run(self.run_id)
        if loaded.committed is not None and loaded.committed.fence == self.fence:
            return Decision(Changes(), self._repeated(loaded.committed, run))
        runs.require_current(run, self.fence)
        runs.require_turn(run, self.turn)
        before = run
        conversation = transition.conversation
        run = self._close(transition, run)
        if run.is_root:
            transition.records.append(milestone(conversation, transition, run))
        run = self._settle(transition, run)
        next_run = self._next(transition, run, loaded)
        runs.reflect(transition)
        outcome = TurnOutcome(
            run.status,
            transition.conversation.head_sequence,
            run.checkpoint_id,
            next_run,
            self._child_run_ids,
        )
        transition.committed.append(self._remember(before, outcome))
        transition.pruned_steps = (self.run_id, self.turn)
        return Decision(transition.done(), outcome)

    def _repeated(self, committed: CommittedTurn, run: Run) -> TurnOutcome:
        differing = sorted(
            name
            for name in {*self.content, *committed.content}
            if self.content.get(name) != committed.content.get(name)
        )
        if differing:
            raise Rejection(
                Reason.TURN_CONFLICT,
                f"turn {self.turn} of {self.run_id} was committed with another "
                f"{', '.join(differing)}",
                difference=",".join(differing),
            )
        holds_next = committed.next_fence > 0 and committed.next_fence == run.fence
        next_run = run if holds_next and run.status is RunStatus.LEASED else None
        return TurnOutcome(
            committed.status,
            committed.last_sequence,
            committed.checkpoint_id,
            next_run,
            self._child_run_ids,
        )

    @property
    def _child_run_ids(self) -> tuple[str, ...]:
        return tuple(child_run_id(self.run_id, self.turn, c.agent_path) for c in self.children)

    def _close(self, transition: Transition, run: Run) -> Run:
        run = transition.append_worker_events(run, self.turn, self.origin, self.events)
        run = runs.charge_lost_work(transition, run)
        run = runs.let_go_of_what_it_asked(transition, run, self.turn, self.origin)
        read = max(run.inbox_read, min(self.last_input_sequence, run.inbox_head))
        if self.discard:
            run = resolving.withdraw(transition, run, self.origin, self.turn)
            message_ids = self.discarded_message_ids or run.turn_messages
            transition.append(
                TurnDiscarded(self.detail, message_ids), self.origin, run.run_id, self.turn
            )
            run = replace(run, last_message=run.committed_message)
            if self.status is not RunStatus.FAILED:
                # The files of a run that ends stay to be looked at, until the next one begins.
                told = workspaces.as_before_turn(self.turn)
                run = workspaces.go_back(transition, transition.put(run), told, self.origin)
        else:
            if run.is_root:
                workspaces.keep(transition)
            generation = transition.conversation.workspace_generation
            sequence = transition.append(
                TurnCommitted(run.turn_usage, run.turn_steps, self.speaker, generation),
                self.origin,
                run.run_id,
                self.turn,
            )
            run = self._keep_checkpoint(transition, run, sequence)
            run = replace(run, rounds=run.rounds + 1, committed_message=run.last_message)
        return transition.put(replace(runs.turn_closed(run, self.turn), inbox_read=read))

    def _keep_checkpoint(self, transition: Transition, run: Run, sequence: int) -> Run:
        if self.checkpoint is None:
            return run
        base_id = self.checkpoint.base_id
        if base_id and base_id != run.checkpoint_id:
            raise Rejection(
                Reason.CHECKPOINT_MISMATCH,
                f"the checkpoint is a difference to {base_id}, but {run.run_id} stands at "
                f"{run.checkpoint_id or 'none'}",
                base_checkpoint_id=base_id,
                expected_checkpoint_id=run.checkpoint_id,
            )
        transition.checkpoint = replace(
            self.checkpoint,
            conversation_id=run.conversation_id,
            sequence=sequence,
            workspace_generation=transition.conversation.workspace_generation,
        )
        return replace(run, checkpoint_id=self.checkpoint.checkpoint_id)

    def _settle(self, transition: Transition, run: Run) -> Run:
        status, waiting_for = self.status, self.waiting_for
        # The worker knows the limit that held when it was granted the turn.
        more_rounds = self.end_reason is EndReason.MAX_ROUNDS and run.rounds < run.max_rounds
        if status is RunStatus.COMPLETED and (run.has_unread or more_rounds):
            status = RunStatus.RUNNABLE
        if status is RunStatus.WAITING:
            if waiting_for is WaitKind.NONE:
                waiting_for = WaitKind.TIMER if self.wake_at else WaitKind.INPUT
            if self._came_meanwhile(transition, run, waiting_for):
                status = RunStatus.RUNNABLE
        if status is RunStatus.RUNNABLE:
            return self._go_on(transition, run)
        if status is RunStatus.WAITING:
            return self._wait(transition, run, waiting_for)
        reason = self.end_reason
        if reason is EndReason.NONE:
            completed = status is RunStatus.COMPLETED
            reason = EndReason.TERMINATED if completed else EndReason.INTERNAL
        return self._end(transition, run, status, reason, self.detail)

    def _came_meanwhile(self, transition: Transition, run: Run, waiting_for: WaitKind) -> bool:
        """True if what the run is to wait for is there already, unread."""
        if waiting_for is WaitKind.TIMER or self.children:
            return False
        if runs.still_waits(transition, replace(run, waiting_for=waiting_for)):
            return False
        if not run.has_unread:
            awaited = waiting_for.name.lower()
            raise invalid("waiting_for", f"{run.run_id} has nothing to wait for of kind {awaited}")
        return True

    def _go_on(self, transition: Transition, run: Run) -> Run:
        if run.rounds >= run.max_rounds:
            detail = f"took {run.rounds} of {run.max_rounds} rounds"
            return self._end(transition, run, RunStatus.COMPLETED, EndReason.MAX_ROUNDS, detail)
        limit = run.budget.max_turns
        if limit is not None and run.turn >= limit:
            detail = f"took {run.turn} of {limit} turns"
            return self._end(transition, run, RunStatus.FAILED, EndReason.BUDGET, detail)
        if run.pause_requested:
            return runs.pause(transition, run, self.origin)
        return transition.put(runs.runnable(run, transition.now))

    def _wait(self, transition: Transition, run: Run, waiting_for: WaitKind) -> Run:
        start_children(transition, run, self.turn, self.children, self.origin)
        waiting = replace(
            run,
            status=RunStatus.WAITING,
            waiting_for=waiting_for,
            detail=self.detail,
            wake_at=self.wake_at,
            runnable_at=None,
        )
        if run.pause_requested:
            return runs.pause(transition, waiting, self.origin)
        transition.append(
            RunStatusChanged(RunStatus.WAITING, waiting_for, self.detail),
            self.origin,
            run.run_id,
            self.turn,
        )
        return transition.put(waiting)

    def _end(
        self, transition: Transition, run: Run, status: RunStatus, reason: EndReason, detail: str
    ) -> Run:
        ended = runs.end(transition, run, status, reason, detail, self.origin, summary=self.summary)
        if ended.has_unread and ended.is_root and status is RunStatus.COMPLETED:
            runs.succeed(transition, ended, self.successor_run_id, ended.traceparent, Origin.STORE)
        return ended

    def _next(self, transition: Transition, run: Run, loaded: Loaded) -> Run | None:
        if self.next_turn is None or run.status is not RunStatus.RUNNABLE:
            return None
        # A lease that ran out has lost its place: whoever limits or counts leases must see it.
        held = loaded.runs[run.run_id].status is RunStatus.LEASED
        if loaded.rivals_waiting or not held:
            return None
        return transition.put(
            runs.granted(run, self.next_turn.worker_id, self.next_turn.lease, transition.now)
        )

    def _remember(self, before: Run, outcome: TurnOutcome) -> CommittedTurn:
        return CommittedTurn(
            run_id=self.run_id,
            turn=self.turn,
            fence=self.fence,
            content=self.content,
            status=outcome.status,
            last_sequence=outcome.last_sequence,
            checkpoint_id=outcome.checkpoint_id,
            previous_checkpoint_id=before.checkpoint_id,
            message_ids=before.turn_messages,
            previous_message=before.committed_message,
            previous_read=before.inbox_read,
            discarded=self.discard,
            next_fence=outcome.next.fence if outcome.next else 0,
        )
