"""Forking: a conversation that begins with another one's history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import runs
from .changes import Decision, Loaded, Scope, Transition
from .events import ConversationForked, TurnDiscarded
from .history import Milestone, SharedHistory, SharedInput, milestone
from .model import (
    NO_FILES,
    Conversation,
    ConversationView,
    EndReason,
    Instant,
    Origin,
    Run,
    RunStatus,
    Visibility,
    WorkspaceState,
)
from .rejections import Reason, Rejection


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """A place in a log, and what is known of it.

    `milestone` is the newest one at or before it. After that, `messages` are what workers said,
    and `unread` the inputs, each with the log that it lies in, that the team has not read there.
    `size_bytes` and `message_count` are those of the log up to there.
    """

    sequence: int
    shared: Sequence[SharedHistory]
    milestone: Milestone | None
    messages: tuple[str, ...]
    unread: Sequence[tuple[str, int]]
    size_bytes: int
    message_count: int


def require_place(source: Conversation, at_sequence: int) -> int:
    """The event to fork after, the head if 0; refuses what is not in the log."""
    sequence = at_sequence or source.head_sequence
    name = source.conversation_id
    if sequence > source.head_sequence:
        raise Rejection(
            Reason.BEYOND_HEAD,
            f"{name} has no event {sequence} yet; the newest is {source.head_sequence}",
            head_sequence=str(source.head_sequence),
        )
    if sequence < source.oldest_sequence:
        raise Rejection(
            Reason.HISTORY_REMOVED,
            f"{name} has no events before {source.oldest_sequence} any more",
            oldest_sequence=str(source.oldest_sequence),
        )
    return sequence


def shared_by_fork(
    source: Conversation, shared: Sequence[SharedHistory], sequence: int
) -> list[SharedHistory]:
    """Where the history of a fork lies: in the logs that its source shares, and in its own."""
    own = max((part.last_sequence for part in shared), default=0) + 1
    parts = list(shared)
    if source.head_sequence >= own:
        log_id = source.conversation_id
        parts.append(SharedHistory(log_id, source.head_sequence, own, log_id, ""))
    return [
        part.up_to(sequence).beginning_at(source.oldest_sequence)
        for part in parts
        if part.first_sequence <= sequence or part.last_sequence < part.first_sequence
    ]


@dataclass(frozen=True, slots=True)
class Fork:
    """Who forks what, and under which names."""

    tenant: str
    source_id: str
    at_sequence: int
    conversation_id: str
    run_id: str
    principal: str
    visibility: Visibility = Visibility.PRIVATE


@dataclass(frozen=True, slots=True)
class ForkConversation:
    """Writes a conversation that shares the history of `source` up to a point.

    It has a run that has ended, at the state of the newest milestone, so that the next message
    starts one that goes on from there and reads what has not been read.
    """

    fork: Fork
    source: ConversationView
    point: ForkPoint

    @property
    def scope(self) -> Scope:
        """Nothing exists yet."""
        return Scope(self.fork.tenant, self.fork.conversation_id)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[ConversationView]:
        """Always yes: the id is new."""
        before = self._before(now)
        transition = Transition(replace(loaded, conversation=before), self.scope, now)
        transition.facts = replace(
            self.source.facts,
            forked_from=self.fork.source_id,
            forked_at=self.point.sequence,
            legal_hold=False,
        )
        run = transition.put(self._run(now))
        transition.append(
            ConversationForked(self.fork.source_id, self.point.sequence, self.fork.principal),
            Origin.API,
        )
        if self.point.messages:
            # Not in the name of the run that said them: it may go on in the other conversation.
            transition.append(
                TurnDiscarded("forked before the turn was committed", self.point.messages),
                Origin.API,
                run.run_id,
            )
        transition.records += self._records(run)
        transition.records.append(milestone(before, transition, run))
        runs.reflect(transition)
        changes = transition.done()
        conversation = changes.conversation or transition.conversation
        return Decision(changes, ConversationView(conversation, transition.facts, run))

    def _before(self, now: Instant) -> Conversation:
        source = self.source.conversation
        files = self._files()
        return Conversation(
            self.fork.tenant,
            self.fork.conversation_id,
            now,
            self.fork.run_id,
            head_sequence=self.point.sequence,
            oldest_sequence=source.oldest_sequence,
            size_bytes=self.point.size_bytes,
            message_count=self.point.message_count,
            removed_bytes=source.removed_bytes,
            workspace_generation=files.generation,
            workspace_manifest=files.manifest,
            kept_generation=files.generation,
            kept_manifest=files.manifest,
            owner=self.fork.principal,
            visibility=self.fork.visibility,
        )

    def _files(self) -> WorkspaceState:
        """Those of the checkpoint; at the head with what people wrote since then."""
        source, stands = self.source.conversation, self.point.milestone
        if self.point.sequence == source.head_sequence:
            return WorkspaceState(source.kept_generation, source.kept_manifest)
        if stands is None:
            return NO_FILES
        return WorkspaceState(stands.workspace_generation, stands.workspace_manifest)

    def _run(self, now: Instant) -> Run:
        template, stands = self.source.run, self.point.milestone
        read = stands.inbox_read if stands else 0
        at_head = self.point.sequence == self.source.conversation.head_sequence
        return Run(
            tenant=self.fork.tenant,
            run_id=self.fork.run_id,
            conversation_id=self.fork.conversation_id,
            root_run_id=self.fork.run_id,
            definition_digest=template.definition_digest,
            started_at=now,
            ended_at=now,
            status=RunStatus.COMPLETED,
            end_reason=EndReason.TERMINATED,
            detail=f"forked from {self.fork.source_id} after event {self.point.sequence}",
            summary=self.source.conversation.summary if at_head else "",
            max_rounds=template.max_rounds,
            timeout=template.timeout,
            budget=template.budget,
            priority=template.priority,
            human_input=template.human_input,
            checkpoint_id=stands.checkpoint_id if stands else "",
            inbox_read=read,
            inbox_head=max([read, *(sequence for _, sequence in self.point.unread)]),
        )

    def _records(self, run: Run) -> list[object]:
        name, checkpoint_id = self.fork.conversation_id, run.checkpoint_id
        return [
            *(
                replace(part, conversation_id=name, checkpoint_id=checkpoint_id)
                for part in self.point.shared
            ),
            *(SharedInput(run.run_id, sequence, log_id) for log_id, sequence in self.point.unread),
        ]
