"""Steps: every effect is claimed before it happens and recorded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import runs, workspaces
from .approvals import Approval, ApprovalStatus, approval_id_of
from .budgets import remaining_tokens, require_budget
from .changes import Changes, Decision, Loaded, Lookup, Scope, Transition, asked_for
from .copying import replace
from .events import WorkerEvent
from .ledger import Consumed
from .model import NO_FILES, Instant, Origin, Run, Step, StepKind, StepState, WorkspaceState
from .rejections import Reason, Rejection, not_found, turn_gap
from .usage import NO_USAGE, Usage
from .workspaces import UNNAMED, WorkspaceChange


@dataclass(frozen=True, slots=True)
class StepClaim:
    """What is known of a step after a claim, and what is left of the token budget, if bounded."""

    step: Step
    state: StepState
    remaining_tokens: int | None
    workspace: WorkspaceState = NO_FILES


@dataclass(frozen=True, slots=True)
class BeginStep:
    """Claims a step before its effect, or learns what became of it."""

    tenant: str
    conversation_id: str
    run_id: str
    fence: int
    turn: int
    step_key: str
    kind: StepKind
    request_digest: bytes
    attempt_id: str
    take_over: bool = False
    reservation: Usage = NO_USAGE
    origin: Origin = Origin.RUNTIME
    runner_address: str = ""

    @property
    def scope(self) -> Scope:
        """The run with those above it, the step, and what a person says of a tool call."""
        return Scope(
            self.tenant,
            self.conversation_id,
            run_id=self.run_id,
            lineage=True,
            step=(self.turn, self.step_key),
            lookups=self._approval,
        )

    @property
    def _approval(self) -> tuple[Lookup, ...]:
        """Of a call that is to be carried out; the runtime records those that are not."""
        if self.kind is not StepKind.TOOL or self.origin is not Origin.TOOL_RUNNER:
            return ()
        return (Lookup(Approval, (approval_id_of(self.run_id, self.turn, self.step_key),)),)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[StepClaim]:
        """Repeating a claim under the same fence and attempt is harmless. With a smaller
        reservation it gives back the rest: so an attempt that failed is not charged what it did
        not consume."""
        run = _run_of(loaded, self.run_id)
        runs.require_current(run, self.fence)
        runs.require_turn(run, self.turn)
        for lookup in self._approval:
            _require_approved(loaded.found.get(lookup))
        step = loaded.step
        if step is not None and step.request_digest != self.request_digest:
            raise Rejection(
                Reason.REPLAY_DIVERGED,
                f"step {self.step_key} of turn {self.turn} was claimed for another request",
                step_key=self.step_key,
            )
        if step is not None and step.recorded:
            return _known(loaded, run, step, StepState.RECORDED)
        return self._at_its_files(loaded, self._begin(loaded, run, step, now))

    def _at_its_files(self, loaded: Loaded, decided: Decision[StepClaim]) -> Decision[StepClaim]:
        """What a tool needs to act on the files, and where it acts."""
        conversation = decided.changes.conversation or loaded.conversation
        if not self._approval or conversation is None:
            return decided
        claim = replace(decided.result, workspace=workspaces.now_of(conversation))
        address = self.runner_address or UNNAMED
        if claim.state is StepState.ORPHANED or conversation.runner_address == address:
            return Decision(decided.changes, claim)
        opened = replace(conversation, runner_address=address)
        return Decision(replace(decided.changes, conversation=opened), claim)

    def _begin(
        self, loaded: Loaded, run: Run, step: Step | None, now: Instant
    ) -> Decision[StepClaim]:
        if step is not None:
            if step.fence == self.fence and step.attempt_id == self.attempt_id:
                return self._give_back(loaded, run, step)
            if not self.take_over:
                return _known(loaded, run, step, StepState.ORPHANED)
        return self._claim(loaded, run, step, now)

    def _give_back(self, loaded: Loaded, run: Run, step: Step) -> Decision[StepClaim]:
        less = step.reservation.at_most(self.reservation)
        if less == step.reservation:
            return _known(loaded, run, step, StepState.CLAIMED)
        run = replace(run, reserved=run.reserved.minus(step.reservation).plus(less))
        step = replace(step, reservation=less)
        known = {**loaded.runs, run.run_id: run}
        claim = StepClaim(step, StepState.CLAIMED, remaining_tokens(known, run))
        return Decision(Changes(runs=[run], steps=[step]), claim)

    def _claim(
        self, loaded: Loaded, run: Run, orphan: Step | None, now: Instant
    ) -> Decision[StepClaim]:
        known, conversation = dict(loaded.runs), loaded.conversation
        consumed = []
        if orphan is not None and orphan.reservation != NO_USAGE and conversation is not None:
            lost = replace(orphan.reservation, estimated=True)
            run = self._charge(known, run, orphan, lost)
            consumed.append(Consumed(self.conversation_id, now, lost))
            conversation = replace(
                conversation,
                usage=conversation.usage.plus(lost),
                version=conversation.version + 1,
            )
        require_budget(known, run, self.reservation)
        claimed = Step(
            self.run_id,
            self.turn,
            self.step_key,
            self.kind,
            self.request_digest,
            self.fence,
            self.attempt_id,
            reservation=self.reservation,
        )
        known[run.run_id] = replace(run, reserved=run.reserved.plus(self.reservation))
        changed = [run for run in known.values() if run != loaded.runs[run.run_id]]
        changes = Changes(
            conversation=conversation if conversation is not loaded.conversation else None,
            runs=changed,
            steps=[claimed],
            consumed=consumed,
            admission=self.reservation,
        )
        remaining = remaining_tokens(known, known[run.run_id])
        return Decision(changes, StepClaim(claimed, StepState.CLAIMED, remaining))

    def _charge(self, known: dict[str, Run], run: Run, orphan: Step, lost: Usage) -> Run:
        """What a lost attempt had reserved counts as consumed: its real cost is not known."""
        for above in runs.ancestors(known, run):
            known[above.run_id] = replace(above, usage=above.usage.plus(lost))
        known[run.run_id] = replace(
            run,
            usage=run.usage.plus(lost),
            turn_usage=run.turn_usage.plus(lost),
            reserved=run.reserved.minus(orphan.reservation),
        )
        return known[run.run_id]


@dataclass(frozen=True, slots=True)
class StepRecorded:
    """Where a step's events stand; `first_sequence` is 0 if it had none, and so is
    `workspace_generation` if no file was changed now."""

    first_sequence: int
    last_sequence: int
    workspace_generation: int = 0


@dataclass(frozen=True, slots=True)
class RecordStep:
    """Writes a step's result, its events and its usage in one transaction.

    `record` holds a digest of every part by its name: the same step with other content is
    refused naming the parts that differ.
    """

    tenant: str
    conversation_id: str
    run_id: str
    fence: int
    turn: int
    step_key: str
    request_digest: bytes
    result: bytes
    encoding: str
    key_id: str
    record: Mapping[str, str]
    origin: Origin
    events: Sequence[WorkerEvent] = ()
    usage: Usage = NO_USAGE
    model: str = ""
    workspace: WorkspaceChange | None = None
    lacking: Rejection | None = None
    """Why it cannot be written now. What was written before may lack by now what it needed then."""

    @property
    def scope(self) -> Scope:
        """The run with those above it, the step, and what it asks for."""
        return Scope(
            self.tenant,
            self.conversation_id,
            run_id=self.run_id,
            lineage=True,
            step=(self.turn, self.step_key),
            lookups=asked_for(self.events),
        )

    def decide(self, loaded: Loaded, now: Instant) -> Decision[StepRecorded]:
        """The same record again answers as the first time."""
        transition = Transition(loaded, self.scope, now)
        run = transition.run(self.run_id)
        step = loaded.step
        if step is not None and step.recorded and step.fence == self.fence:
            return Decision(Changes(), self._repeated(step))
        runs.require_current(run, self.fence)
        if self.turn != run.turn + 1:
            raise turn_gap(run.run_id, self.turn, run.turn + 1)
        if step is None:
            raise Rejection(
                Reason.STEP_NOT_CLAIMED,
                f"step {self.step_key} of turn {self.turn} was not claimed",
                step_key=self.step_key,
            )
        if step.recorded:
            return Decision(Changes(), self._repeated(step))
        if step.request_digest != self.request_digest:
            raise self._conflict(["request_digest"])
        return self._write(transition, run, step)

    def _repeated(self, step: Step) -> StepRecorded:
        differing = sorted(
            name
            for name in {*self.record, *step.record}
            if self.record.get(name) != step.record.get(name)
        )
        if step.request_digest != self.request_digest:
            differing.insert(0, "request_digest")
        if differing:
            raise self._conflict(differing)
        return StepRecorded(step.first_sequence, step.last_sequence)

    def _conflict(self, differing: Sequence[str]) -> Rejection:
        return Rejection(
            Reason.STEP_CONFLICT,
            f"step {self.step_key} of turn {self.turn} of {self.run_id} was recorded with "
            f"another {', '.join(differing)}",
            difference=",".join(differing),
            step_key=self.step_key,
        )

    def _write(self, transition: Transition, run: Run, step: Step) -> Decision[StepRecorded]:
        if self.lacking is not None:
            raise self.lacking
        first = transition.conversation.head_sequence + 1 if self.events else 0
        run = transition.append_worker_events(run, self.turn, self.origin, self.events)
        agent = next((event.agent for event in self.events if event.agent), "")
        run = runs.add_usage(transition, run, self.usage, agent, self.model)
        transition.put(
            replace(
                run,
                turn_steps=run.turn_steps + 1,
                reserved=run.reserved.minus(step.reservation),
            )
        )
        generation = workspaces.change(transition, self.workspace) if self.workspace else 0
        recorded = StepRecorded(first, transition.conversation.head_sequence, generation)
        transition.step = replace(
            step,
            recorded=True,
            fence=self.fence,
            result=self.result,
            encoding=self.encoding,
            key_id=self.key_id,
            record=self.record,
            first_sequence=recorded.first_sequence,
            last_sequence=recorded.last_sequence,
        )
        return Decision(transition.done(), recorded)


def _require_approved(approval: Approval | None) -> None:
    """No call is carried out that waits for a person or was refused."""
    if approval is None or approval.status in (ApprovalStatus.APPROVED, ApprovalStatus.EDITED):
        return
    status = approval.status.name.lower()
    raise Rejection(
        Reason.APPROVAL_REQUIRED,
        f"the call is not approved: {approval.approval_id} is {status}",
        status=status,
        approval_id=approval.approval_id,
    )


def _run_of(loaded: Loaded, run_id: str) -> Run:
    run = loaded.runs.get(run_id)
    if run is None:
        raise not_found("run", run_id)
    return run


def _known(loaded: Loaded, run: Run, step: Step, state: StepState) -> Decision[StepClaim]:
    return Decision(Changes(), StepClaim(step, state, remaining_tokens(loaded.runs, run)))
