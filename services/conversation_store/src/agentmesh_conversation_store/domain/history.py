"""What is kept of logs so that they can be shared, cut short and removed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from . import runs
from .changes import Changes, Decision, Loaded, Lookup, Scope, Transition
from .model import (
    Conversation,
    ConversationFacts,
    EndReason,
    Instant,
    Micros,
    Origin,
    Run,
    RunStatus,
)
from .rejections import Reason, Rejection, not_found

FOREVER = 2**62
"""Beyond every sequence."""


@dataclass(frozen=True, slots=True)
class Milestone:
    """A place in a log where it and the state of its team agree.

    After `sequence` the team stands at `checkpoint_id`, and has read its inputs up to `inbox_read`;
    the files are those of `workspace_manifest`.
    `before_bytes` and `before_messages` count the log up to `before_sequence`, what was removed
    since included.
    """

    conversation_id: str
    sequence: int
    committed_at: Instant
    checkpoint_id: str = ""
    inbox_read: int = 0
    before_sequence: int = 0
    before_bytes: int = 0
    before_messages: int = 0
    workspace_generation: int = 0
    workspace_manifest: str = ""


def milestone(before: Conversation, after: Transition, run: Run) -> Milestone:
    """That of the newest event of a transition, which began with `before`."""
    return Milestone(
        conversation_id=before.conversation_id,
        sequence=after.conversation.head_sequence,
        committed_at=after.now,
        checkpoint_id=run.checkpoint_id,
        inbox_read=run.inbox_read,
        before_sequence=before.head_sequence,
        before_bytes=before.size_bytes,
        before_messages=before.message_count,
        workspace_generation=after.conversation.kept_generation,
        workspace_manifest=after.conversation.kept_manifest,
    )


@dataclass(frozen=True, slots=True)
class SharedHistory:
    """Events of a fork that lie in another log: those from `first_sequence` to `last_sequence`.

    None do once retention has removed them; then the other log still keeps `checkpoint_id`, where
    the team of the fork began.
    """

    conversation_id: str
    last_sequence: int
    first_sequence: int
    log_id: str
    checkpoint_id: str

    def up_to(self, sequence: int) -> SharedHistory:
        """As far as a fork at `sequence` shares it."""
        return replace(self, last_sequence=min(self.last_sequence, sequence))

    def beginning_at(self, sequence: int) -> SharedHistory:
        """Without what is older."""
        first = max(self.first_sequence, min(sequence, self.last_sequence + 1))
        return replace(self, first_sequence=first)


@dataclass(frozen=True, slots=True)
class SharedInput:
    """An input whose event lies in the log `conversation_id`, which a fork shares."""

    run_id: str
    sequence: int
    conversation_id: str


@dataclass(frozen=True, slots=True)
class Removal:
    """A log of which something is to be removed in the background.

    `position` is the last event that was looked at; another request begins again.
    """

    log_id: str
    requested_at: Instant
    position: int = 0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long history is kept; None is no limit."""

    age: Micros | None = None
    events: int | None = None

    def of(self, facts: ConversationFacts) -> Retention:
        """As it holds for one conversation: what it says itself comes first."""
        return Retention(
            self.age if facts.retention_age is None else facts.retention_age,
            self.events if facts.retention_events is None else facts.retention_events,
        )


def gaps(kept: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sequences that no range (first, last) holds, as such ranges."""
    found: list[tuple[int, int]] = []
    position = 1
    for first, last in sorted(kept):
        if first > last:
            continue
        if first > position:
            found.append((position, first - 1))
        position = max(position, last + 1)
    if position <= FOREVER:
        found.append((position, FOREVER))
    return found


@dataclass(frozen=True, slots=True)
class DeleteConversation:
    """Ends what is under way and makes the conversation unknown, for good.

    Its rows are removed later, and as far as no fork needs them. With `idle_before` it stays if a
    run is under way or something happened since then.
    """

    tenant: str
    conversation_id: str
    idle_before: Instant | None = None

    @property
    def scope(self) -> Scope:
        """The conversation with its live runs."""
        return Scope(self.tenant, self.conversation_id, live_runs=True, facts=True)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[None]:
        """Refused under legal hold."""
        transition = Transition(loaded, self.scope, now)
        require_no_hold(self.conversation_id, loaded.facts)
        root = transition.run(transition.conversation.root_run_id)
        if self.idle_before is not None and not (
            root.status.ended and transition.conversation.last_event_at < self.idle_before
        ):
            return Decision(Changes(), None)
        if not root.status.ended:
            runs.end_by_force(
                transition,
                root,
                RunStatus.CANCELLED,
                EndReason.CANCELLED,
                "the conversation was deleted",
                Origin.API,
            )
        ended = transition.done()
        key = (self.conversation_id,)
        # Nobody reads its log any more, so that it needs no last events.
        changes = Changes(
            runs=ended.runs,
            fences=ended.fences,
            consumed=ended.consumed,
            records=[Removal(self.conversation_id, now)],
            removed=[Lookup(Conversation, key), Lookup(ConversationFacts, key)],
            deleted=True,
        )
        return Decision(changes, None)


def require_no_hold(conversation_id: str, facts: ConversationFacts | None) -> None:
    """Refuses to remove anything of a conversation under legal hold."""
    if facts is None:
        raise not_found("conversation", conversation_id)
    if facts.legal_hold:
        raise Rejection(
            Reason.LEGAL_HOLD,
            f"{conversation_id} is under legal hold: nothing of it is removed",
        )


@dataclass(frozen=True, slots=True)
class CutHistory:
    """Takes the oldest events away: the log begins with the event of `place` from now on.

    `place` counts everything before it.
    """

    tenant: str
    conversation_id: str
    place: Milestone

    @property
    def scope(self) -> Scope:
        """The conversation."""
        return Scope(self.tenant, self.conversation_id, facts=True)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[None]:
        """Refused under legal hold."""
        transition = Transition(loaded, self.scope, now)
        require_no_hold(self.conversation_id, loaded.facts)
        transition.conversation = replace(
            transition.conversation,
            oldest_sequence=self.place.sequence,
            removed_bytes=self.place.before_bytes,
        )
        transition.records += [self.place, Removal(self.conversation_id, now)]
        return Decision(replace(transition.done(), cut=True), None)


def floor(live: Sequence[Run], root: Run, unread: Sequence[int], newest_milestone: int) -> int:
    """The last sequence that history may be made to begin with: all that runs may still need comes
    after it.

    `unread` are the oldest inputs that a run has not read. While the root is under way its newest
    turn may be replaced, so that the state before it is needed.
    """
    needed = [FOREVER, *unread]
    for run in live:
        needed += [place for place in (run.last_message, run.committed_message) if place]
    if not root.status.ended:
        needed.append(newest_milestone - 1)
    return min(needed)
