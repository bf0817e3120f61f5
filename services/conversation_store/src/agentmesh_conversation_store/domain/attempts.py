"""Turns that were not committed: given back, lost, out of time."""

from __future__ import annotations

from dataclasses import dataclass

from . import resolving, runs
from .changes import Changes, Decision, Loaded, Scope, Transition
from .copying import replace
from .events import AttemptFailed
from .model import SECOND, EndReason, Instant, Micros, Origin, Run, RunStatus

MAX_BACK_OFF: Micros = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a turn is tried. Failures are reported, losses are leases that ran out."""

    max_failures: int
    max_losses: int
    first_delay: Micros = SECOND

    def delay(self, attempt: int) -> Micros:
        """How long to wait after the given attempt, from 1: it doubles up to a minute."""
        exponent = min(max(attempt - 1, 0), 16)
        return min(MAX_BACK_OFF, self.first_delay << exponent)


@dataclass(frozen=True, slots=True)
class ReleaseTurn:
    """Gives a lease back: to others at once or after `retry_after`, or as a failed attempt."""

    tenant: str
    conversation_id: str
    run_id: str
    fence: int
    turn: int
    failed: bool
    detail: str
    reason: EndReason
    retry_after: Micros
    retries: Retries
    origin: Origin = Origin.RUNTIME

    @property
    def scope(self) -> Scope:
        """The run with its family."""
        return Scope(
            self.tenant,
            self.conversation_id,
            run_id=self.run_id,
            live_runs=True,
            last_messages=self.failed,
        )

    def decide(self, loaded: Loaded, now: Instant) -> Decision[RunStatus]:
        """Giving back what was given back already is harmless."""
        transition = Transition(loaded, self.scope, now)
        run = transition.run(self.run_id)
        if run.fence == self.fence and run.status is not RunStatus.LEASED:
            return Decision(Changes(), run.status)
        runs.require_current(run, self.fence)
        runs.require_turn(run, self.turn)
        if self.failed:
            run = self._fail(transition, run)
        else:
            run = transition.put(
                replace(
                    runs.runnable(run, now + self.retry_after),
                    attempt=max(0, run.attempt - 1),
                    lease_worker="",
                    # What is shown of a run that cannot go on yet.
                    detail=self.detail if self.retry_after else "",
                )
            )
        if run.pause_requested and not run.status.ended:
            run = runs.pause(transition, run, self.origin)
        runs.reflect(transition)
        return Decision(transition.done(), run.status)

    def _fail(self, transition: Transition, run: Run) -> Run:
        if run.attempt >= self.retries.max_failures:
            detail = f"failed {run.attempt} times; the last time: {self.detail}"
            return runs.end(
                transition,
                run,
                RunStatus.DEAD_LETTER,
                EndReason.ATTEMPTS_EXHAUSTED,
                detail,
                self.origin,
            )
        delay = max(self.retry_after, self.retries.delay(run.attempt))
        transition.append(
            AttemptFailed(run.attempt, self.detail, delay, self.reason),
            self.origin,
            run.run_id,
            self.turn,
        )
        released = replace(runs.runnable(run, transition.now + delay), lease_worker="")
        return transition.put(released)


@dataclass(frozen=True, slots=True)
class Tick:
    """Does to one run what time asks for: expiry of its lease, expiry or escalation of what it
    asks people, a timer, its deadline."""

    tenant: str
    conversation_id: str
    run_id: str
    retries: Retries

    @property
    def scope(self) -> Scope:
        """The run with its family."""
        return Scope(
            self.tenant,
            self.conversation_id,
            run_id=self.run_id,
            live_runs=True,
            last_messages=True,
        )

    def decide(self, loaded: Loaded, now: Instant) -> Decision[Run]:
        """Nothing, if what was due has been done already."""
        transition = Transition(loaded, self.scope, now)
        run = transition.run(self.run_id)
        if run.status.ended:
            return Decision(Changes(), run)
        if run.deadline is not None and run.deadline <= now:
            run = runs.end_by_force(
                transition,
                run,
                RunStatus.FAILED,
                EndReason.DEADLINE,
                "its deadline passed",
                Origin.STORE,
            )
        elif resolving.any_due(transition, run):
            run = runs.go_on_if_free(transition, resolving.keep_time(transition, run), Origin.STORE)
        elif run.status is RunStatus.LEASED and (run.lease_until or 0) <= now:
            run = self._expire(transition, run)
        if run.status is RunStatus.WAITING and run.wake_at is not None and run.wake_at <= now:
            run = runs.wake(transition, run, Origin.STORE)
        runs.reflect(transition)
        return Decision(transition.done(), run)

    def _expire(self, transition: Transition, run: Run) -> Run:
        """The fence stays: until somebody else is granted the turn, its work is still welcome;
        unless the run is to be paused."""
        if run.attempt >= self.retries.max_losses:
            return runs.end_by_force(
                transition,
                run,
                RunStatus.DEAD_LETTER,
                EndReason.ATTEMPTS_EXHAUSTED,
                f"lost {run.attempt} workers at turn {run.turn + 1}",
                Origin.STORE,
            )
        transition.append(
            AttemptFailed(run.attempt, "the worker was lost", 0, EndReason.INTERNAL),
            Origin.STORE,
            run.run_id,
            run.turn + 1,
        )
        if run.pause_requested:
            # What the lost worker still says of the turn would let the run go on.
            return runs.pause(transition, transition.raise_fence(run, "paused"), Origin.STORE)
        return transition.put(runs.runnable(run, transition.now))
