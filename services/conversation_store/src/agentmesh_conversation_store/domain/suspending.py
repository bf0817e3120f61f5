"""A turn given back in its middle, until people or other runs are done with what it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import runs
from .changes import Changes, Decision, Loaded, Lookup, Scope, Transition, asked_for
from .children import ChildRun, child_run_id, start_children
from .copying import replace
from .events import RunStatusChanged, WorkerEvent
from .model import Instant, Origin, Run, RunStatus, WaitKind
from .rejections import Reason, Rejection, invalid


@dataclass(frozen=True, slots=True)
class Suspended:
    """Where a run stands after a suspension; the ids of the runs that it waits for."""

    status: RunStatus
    last_sequence: int
    child_run_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SuspendTurn:
    """Gives up the lease and keeps the turn: its number, its steps and what it said.

    `digest` is that of everything that is asked. Children that an earlier suspension of the turn
    started are left as they are.
    """

    tenant: str
    conversation_id: str
    run_id: str
    fence: int
    turn: int
    digest: str
    waiting_for: WaitKind
    detail: str = ""
    origin: Origin = Origin.RUNTIME
    events: Sequence[WorkerEvent] = ()
    children: Sequence[ChildRun] = ()

    @property
    def scope(self) -> Scope:
        """The run with its family, and whether what it asks for was asked for before."""
        children = tuple(Lookup(Run, (child_id,)) for child_id in self._child_run_ids)
        return Scope(
            self.tenant,
            self.conversation_id,
            run_id=self.run_id,
            live_runs=True,
            lookups=(*asked_for(self.events), *children),
        )

    def decide(self, loaded: Loaded, now: Instant) -> Decision[Suspended]:
        """The same suspension again answers with where the run stands by now."""
        transition = Transition(loaded, self.scope, now)
        run = transition.run(self.run_id)
        mark = f"{self.fence}:{self.digest}"
        if run.fence == self.fence and run.suspension.startswith(f"{self.fence}:"):
            return Decision(Changes(), self._repeated(transition, run, mark))
        runs.require_current(run, self.fence)
        runs.require_turn(run, self.turn)
        self._require_a_reason(run)
        run = transition.append_worker_events(
            run, self.turn, self.origin, self.events, within_turn=True
        )
        fresh = [
            child
            for child, child_id in zip(self.children, self._child_run_ids, strict=True)
            if Lookup(Run, (child_id,)) not in loaded.found
        ]
        start_children(transition, run, self.turn, fresh, self.origin, within_turn=True)
        run = self._stand_by(transition, transition.run(self.run_id), mark)
        runs.reflect(transition)
        return Decision(transition.done(), self._outcome(transition, run))

    def _repeated(self, transition: Transition, run: Run, mark: str) -> Suspended:
        if run.suspension != mark:
            raise Rejection(
                Reason.TURN_CONFLICT,
                f"turn {self.turn} of {self.run_id} was suspended with other content",
                difference="suspension",
            )
        return self._outcome(transition, run)

    def _outcome(self, transition: Transition, run: Run) -> Suspended:
        return Suspended(run.status, transition.conversation.head_sequence, self._child_run_ids)

    @property
    def _child_run_ids(self) -> tuple[str, ...]:
        return tuple(child_run_id(self.run_id, self.turn, c.agent_path) for c in self.children)

    def _require_a_reason(self, run: Run) -> None:
        """Who asks for nothing and never did would be granted the turn again and again."""
        asks = any(event.approval is not None for event in self.events)
        if not (run.suspension or asks or self.children):
            awaited = self.waiting_for.name.lower()
            raise invalid("waiting_for", f"{run.run_id} has nothing to wait for of kind {awaited}")

    def _stand_by(self, transition: Transition, run: Run, mark: str) -> Run:
        waiting = replace(
            run,
            status=RunStatus.WAITING,
            waiting_for=self.waiting_for,
            detail=self.detail,
            suspension=mark,
            attempt=0,
            lease_worker="",
            lease_until=None,
            runnable_at=None,
            wake_at=None,
        )
        if not runs.still_waits(transition, waiting):
            waiting = runs.runnable(waiting, transition.now)
        if run.pause_requested:
            return runs.pause(transition, waiting, self.origin)
        if waiting.status is RunStatus.WAITING:
            transition.append(
                RunStatusChanged(RunStatus.WAITING, self.waiting_for, self.detail),
                self.origin,
                run.run_id,
                self.turn,
            )
        return transition.put(waiting)
