"""What an operation reads and what it writes: the shape of every transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from . import context
from .approvals import Approval, ApprovalStatus
from .copying import replace
from .events import EventBody, NewEvent, WorkerEvent
from .ledger import Consumed
from .model import (
    BlobReference,
    Checkpoint,
    CommittedTurn,
    Conversation,
    ConversationFacts,
    Instant,
    Origin,
    RaisedFence,
    Run,
    Step,
)
from .rejections import Reason, Rejection, not_found
from .usage import NO_USAGE, Usage

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Lookup:
    """One record of the tenant: its type, and its key without the tenant."""

    kind: type[Any]
    key: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """What must be loaded, under lock, before an operation can be decided.

    `run_id` names one run, ended or not. `live_runs` adds every run of the conversation that has
    not ended with the approvals that they wait for, and the newest root run; `last_messages` what
    each of them said last; `lineage` the live runs if `run_id` is a child.
    `newest_turn` adds what is remembered of the newest committed turn of the newest root run,
    `turn` that of a turn of `run_id`. `rivals` asks whether other work has been waiting for a
    worker for longer than a moment, or the tenant's limits ask for the queue. `lookups` are
    further records.
    """

    tenant: str
    conversation_id: str
    run_id: str = ""
    live_runs: bool = False
    lineage: bool = False
    facts: bool = False
    last_messages: bool = False
    newest_turn: bool = False
    rivals: bool = False
    step: tuple[int, str] | None = None
    turn: int | None = None
    lookups: tuple[Lookup, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows of a scope as they are now. `found` holds those lookups that exist, `approvals` the
    pending ones."""

    conversation: Conversation | None = None
    facts: ConversationFacts | None = None
    runs: Mapping[str, Run] = field(default_factory=dict)
    step: Step | None = None
    committed: CommittedTurn | None = None
    last_messages: Mapping[str, str] = field(default_factory=dict)
    rivals_waiting: bool = False
    found: Mapping[Lookup, Any] = field(default_factory=dict)
    approvals: Mapping[str, Approval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows an operation leaves behind, and what others should hear of it.

    `moved_inputs` are (from run, to run, after sequence): unread inputs that a successor takes
    over. `pruned_steps` are (run, first turn to keep).
    `consumed` is usage that the conversation's has grown by. `admission` is what the operation
    would reserve of the tenant's day: it is refused if that does not fit.
    `records` are further rows to write, `removed` further rows to delete. `replaced_manifests` are
    those of states of files that gave way to others. `deleted` if the conversation is gone, `cut`
    if its log begins later.
    """

    conversation: Conversation | None = None
    facts: ConversationFacts | None = None
    definitions: Sequence[tuple[str, bytes]] = ()
    runs: Sequence[Run] = ()
    steps: Sequence[Step] = ()
    committed: Sequence[CommittedTurn] = ()
    checkpoint: Checkpoint | None = None
    pruned_steps: tuple[str, int] | None = None
    events: Sequence[NewEvent] = ()
    inputs: Sequence[tuple[str, int]] = ()
    moved_inputs: Sequence[tuple[str, str, int]] = ()
    fences: Sequence[RaisedFence] = ()
    consumed: Sequence[Consumed] = ()
    admission: Usage | None = None
    records: Sequence[object] = ()
    removed: Sequence[Lookup] = ()
    replaced_manifests: Sequence[str] = ()
    deleted: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Decision(Generic[R_co]):
    """A yes: what to write and what to answer."""

    changes: Changes
    result: R_co


def asked_for(events: Sequence[WorkerEvent]) -> tuple[Lookup, ...]:
    """The approvals that a worker asks for, to find out whether they are new."""
    return tuple(
        Lookup(Approval, (event.approval.approval_id,))
        for event in events
        if event.approval is not None
    )


class Command(Protocol[R_co]):
    """An operation on one conversation. Raises `Rejection` for a no."""

    @property
    def scope(self) -> Scope:
        """What to load."""
        ...

    def decide(self, loaded: Loaded, now: Instant) -> Decision[R_co]:
        """What to write. Pure: it may be asked again with the same rows."""
        ...


class Transition:
    """The state of one conversation while an operation changes it.

    Appends give the dense sequences; the changes come out once at the end.
    """

    def __init__(self, loaded: Loaded, scope: Scope, now: Instant) -> None:
        if loaded.conversation is None:
            raise not_found("conversation", scope.conversation_id)
        self.now = now
        self.conversation: Conversation = loaded.conversation
        self.runs: dict[str, Run] = dict(loaded.runs)
        self.approvals: dict[str, Approval] = dict(loaded.approvals)
        self.facts: ConversationFacts | None = None
        self.definitions: list[tuple[str, bytes]] = []
        self.step: Step | None = None
        self.committed: list[CommittedTurn] = []
        self.checkpoint: Checkpoint | None = None
        self.pruned_steps: tuple[str, int] | None = None
        self.records: list[object] = []
        self.removed: list[Lookup] = []
        self.replaced_manifests: list[str] = []
        self._loaded = loaded
        self._events: list[NewEvent] = []
        self._inputs: list[tuple[str, int]] = []
        self._moved: list[tuple[str, str, int]] = []
        self._fences: list[RaisedFence] = []
        self._consumed: list[Consumed] = []

    def run(self, run_id: str) -> Run:
        """One run as it stands now."""
        try:
            return self.runs[run_id]
        except KeyError:
            raise not_found("run", run_id) from None

    def put(self, run: Run) -> Run:
        """Replaces a run."""
        self.runs[run.run_id] = run
        return run

    def append(self, body: EventBody, origin: Origin, run_id: str = "", turn: int = 0) -> int:
        """Adds an event and returns its sequence."""
        sequence = self.conversation.head_sequence + 1
        is_message = body.kind == "message"
        self.conversation = replace(
            self.conversation,
            head_sequence=sequence,
            last_event_at=self.now,
            message_count=self.conversation.message_count + is_message,
        )
        event = NewEvent(
            self.conversation.conversation_id, sequence, self.now, origin, body, run_id, turn
        )
        self._events.append(event)
        self.records += [
            BlobReference(event.conversation_id, sequence, digest, size)
            for digest, size in event.blobs
        ]
        return sequence

    def append_worker_events(
        self,
        run: Run,
        turn: int,
        origin: Origin,
        bodies: Sequence[WorkerEvent],
        *,
        within_turn: bool = False,
    ) -> Run:
        """Adds what a worker recorded in a turn, and remembers with the run what it said and what
        it asks for; `within_turn` if the turn is suspended for that."""
        messages = list(run.turn_messages)
        last = run.last_message
        pending = run.pending_approvals
        for number, body in enumerate(bodies):
            sequence = self.append(body, origin, run.run_id, turn)
            if body.stands_for is not None:
                field = f"events[{number}].context_summary"
                context.require_range(field, sequence, *body.stands_for)
            if body.approval is not None:
                self._ask(run, turn, body, sequence, within_turn=within_turn)
                pending += 1
            if body.message_id:
                messages.append(body.message_id)
            if body.speaks:
                last = sequence
        return self.put(
            replace(
                run,
                turn_messages=tuple(messages),
                last_message=last,
                pending_approvals=pending,
            )
        )

    def _ask(
        self, run: Run, turn: int, body: WorkerEvent, sequence: int, *, within_turn: bool
    ) -> None:
        asked = body.approval
        if asked is None:
            return
        known = Lookup(Approval, (asked.approval_id,)) in self._loaded.found
        if known or asked.approval_id in self.approvals:
            raise Rejection(
                Reason.ALREADY_EXISTS,
                f'approval "{asked.approval_id}" was asked for already',
                name=asked.approval_id,
            )
        self.put_approval(
            Approval(
                run.tenant,
                asked.approval_id,
                run.conversation_id,
                run.run_id,
                turn,
                body.agent,
                asked.prompt,
                asked.tool_call,
                self.now,
                sequence,
                asked.expires_at,
                asked.role,
                within_turn=within_turn,
                approve_on_expiry=asked.approve_on_expiry,
                escalate_at=asked.escalate_at,
                escalate_to=asked.escalate_to,
            )
        )

    def put_approval(self, approval: Approval) -> None:
        """Adds or replaces an approval."""
        self.approvals[approval.approval_id] = approval

    def pending_approvals(self, run: Run) -> list[Approval]:
        """What the run asks for now, oldest first."""
        return [
            approval
            for approval in self.approvals.values()
            if approval.run_id == run.run_id and approval.status is ApprovalStatus.PENDING
        ]

    def add_input(self, run_id: str, sequence: int) -> Run:
        """Puts an event into a run's inbox."""
        self._inputs.append((run_id, sequence))
        return self.put(replace(self.run(run_id), inbox_head=sequence))

    def move_inputs(self, source: Run, target_id: str) -> None:
        """Hands the unread inputs of a run to its successor."""
        if source.has_unread:
            self._moved.append((source.run_id, target_id, source.inbox_read))
            target = self.run(target_id)
            self.put(replace(target, inbox_head=max(target.inbox_head, source.inbox_head)))

    def consume(self, usage: Usage, agent: str = "", model: str = "") -> None:
        """Books usage on the conversation and on the tenant's ledger."""
        if usage == NO_USAGE:
            return
        conversation = self.conversation
        self.conversation = replace(conversation, usage=conversation.usage.plus(usage))
        self._consumed.append(Consumed(conversation.conversation_id, self.now, usage, agent, model))

    def raise_fence(self, run: Run, reason: str) -> Run:
        """Voids every lease on a run so far, and tells those who work under one."""
        raised = self.put(
            replace(run, fence=run.fence + 1, lease_worker="", lease_until=None, attempt=0)
        )
        self._fences.append(
            RaisedFence(
                run.tenant,
                run.conversation_id,
                run.run_id,
                raised.fence,
                reason,
                self.now,
                run.lease_worker,
            )
        )
        return raised

    def rest(self, run: Run) -> None:
        """Tells whoever holds something for a conversation that waits, once."""
        if not self.conversation.runner_address:
            return
        self.conversation = replace(self.conversation, runner_address="")
        last = self._fences[-1] if self._fences else None
        if last is not None and (last.run_id, last.fence) == (run.run_id, run.fence):
            self._fences[-1] = replace(last, rests=True)
            return
        self._fences.append(
            RaisedFence(
                run.tenant,
                run.conversation_id,
                run.run_id,
                run.fence,
                "the conversation waits",
                self.now,
                rests=True,
            )
        )

    def last_words(self, run: Run) -> str:
        """What the run said last: its summary unless a summariser made one."""
        return self._loaded.last_messages.get(run.run_id, "")

    def done(self) -> Changes:
        """Everything that changed. Any change gives the conversation a new version."""
        before = self._loaded
        runs = [run for run in self.runs.values() if before.runs.get(run.run_id) is not run]
        approvals = [
            approval
            for approval in self.approvals.values()
            if before.approvals.get(approval.approval_id) is not approval
        ]
        conversation: Conversation | None = self.conversation
        if runs or self._events or self.facts or self.conversation is not before.conversation:
            conversation = replace(self.conversation, version=self.conversation.version + 1)
        else:
            conversation = None
        return Changes(
            conversation=conversation,
            facts=self.facts,
            definitions=self.definitions,
            runs=runs,
            steps=[self.step] if self.step else [],
            committed=self.committed,
            checkpoint=self.checkpoint,
            pruned_steps=self.pruned_steps,
            events=self._events,
            inputs=self._inputs,
            moved_inputs=self._moved,
            fences=self._fences,
            consumed=self._consumed,
            records=[*self.records, *approvals],
            removed=self.removed,
            replaced_manifests=[name for name in self.replaced_manifests if name],
        )
