"""What an operation reads and what it writes: the shape of every transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from .events import EventBody, NewEvent, WorkerEvent
from .model import (
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
from .rejections import not_found

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
    not ended, and the newest root run; `last_messages` what each of them said last.
    `newest_turn` adds what is remembered of the newest committed turn of the newest root run,
    `turn` that of a turn of `run_id`. `rivals` asks whether other work has been waiting for a
    worker for longer than a moment. `lookups` are further records.
    """

    tenant: str
    conversation_id: str
    run_id: str = ""
    live_runs: bool = False
    facts: bool = False
    last_messages: bool = False
    newest_turn: bool = False
    rivals: bool = False
    step: tuple[int, str] | None = None
    turn: int | None = None
    lookups: tuple[Lookup, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows of a scope as they are now. `found` holds those lookups that exist."""

    conversation: Conversation | None = None
    facts: ConversationFacts | None = None
    runs: Mapping[str, Run] = field(default_factory=dict)
    step: Step | None = None
    committed: CommittedTurn | None = None
    last_messages: Mapping[str, str] = field(default_factory=dict)
    rivals_waiting: bool = False
    found: Mapping[Lookup, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows an operation leaves behind, and what others should hear of it.

    `moved_inputs` are (from run, to run, after sequence): unread inputs that a successor takes
    over. `pruned_checkpoints` are (run, ids to keep), `pruned_steps` (run, first turn to keep).
    `records` are further rows to write, `removed` further rows to delete.
    """

    conversation: Conversation | None = None
    facts: ConversationFacts | None = None
    definition: tuple[str, bytes] | None = None
    runs: Sequence[Run] = ()
    steps: Sequence[Step] = ()
    committed: Sequence[CommittedTurn] = ()
    checkpoint: Checkpoint | None = None
    pruned_checkpoints: tuple[str, tuple[str, ...]] | None = None
    pruned_steps: tuple[str, int] | None = None
    events: Sequence[NewEvent] = ()
    inputs: Sequence[tuple[str, int]] = ()
    moved_inputs: Sequence[tuple[str, str, int]] = ()
    fences: Sequence[RaisedFence] = ()
    records: Sequence[object] = ()
    removed: Sequence[Lookup] = ()


@dataclass(frozen=True, slots=True)
class Decision(Generic[R_co]):
    """A yes: what to write and what to answer."""

    changes: Changes
    result: R_co


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
        self.facts: ConversationFacts | None = None
        self.definition: tuple[str, bytes] | None = None
        self.step: Step | None = None
        self.committed: list[CommittedTurn] = []
        self.checkpoint: Checkpoint | None = None
        self.pruned_checkpoints: tuple[str, tuple[str, ...]] | None = None
        self.pruned_steps: tuple[str, int] | None = None
        self.records: list[object] = []
        self.removed: list[Lookup] = []
        self._loaded = loaded
        self._events: list[NewEvent] = []
        self._inputs: list[tuple[str, int]] = []
        self._moved: list[tuple[str, str, int]] = []
        self._fences: list[RaisedFence] = []

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
            message_count=self.conversation.message_count + is_message,
        )
        self._events.append(
            NewEvent(
                self.conversation.conversation_id, sequence, self.now, origin, body, run_id, turn
            )
        )
        return sequence

    def append_worker_events(
        self, run: Run, turn: int, origin: Origin, bodies: Sequence[WorkerEvent]
    ) -> Run:
        """Adds what a worker recorded in a turn, and remembers its messages with the run."""
        messages = list(run.turn_messages)
        last = run.last_message
        for body in bodies:
            sequence = self.append(body, origin, run.run_id, turn)
            if body.message_id:
                messages.append(body.message_id)
            if body.speaks:
                last = sequence
        return self.put(replace(run, turn_messages=tuple(messages), last_message=last))

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

    def last_words(self, run: Run) -> str:
        """What the run said last: its summary unless a summariser made one."""
        return self._loaded.last_messages.get(run.run_id, "")

    def done(self) -> Changes:
        """Everything that changed. Any change gives the conversation a new version."""
        before = self._loaded
        runs = [run for run in self.runs.values() if before.runs.get(run.run_id) is not run]
        conversation: Conversation | None = self.conversation
        if runs or self._events or self.facts or self.conversation is not before.conversation:
            conversation = replace(self.conversation, version=self.conversation.version + 1)
        else:
            conversation = None
        return Changes(
            conversation=conversation,
            facts=self.facts,
            definition=self.definition,
            runs=runs,
            steps=[self.step] if self.step else [],
            committed=self.committed,
            checkpoint=self.checkpoint,
            pruned_checkpoints=self.pruned_checkpoints,
            pruned_steps=self.pruned_steps,
            events=self._events,
            inputs=self._inputs,
            moved_inputs=self._moved,
            fences=self._fences,
            records=self.records,
            removed=self.removed,
        )
