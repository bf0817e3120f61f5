"""What people do to conversations: start, speak, cancel, pause, resume."""

from __future__ import annotations

from dataclasses import dataclass

from . import resolving, runs, workspaces
from .access import Access, Grant, Grantee, owned
from .changes import Changes, Decision, Loaded, Scope, Transition
from .copying import replace
from .events import (
    ConversationStarted,
    RunStatusChanged,
    TurnDiscarded,
    UserMessage,
)
from .history import milestone
from .model import (
    CommittedTurn,
    Conversation,
    ConversationFacts,
    ConversationStatus,
    ConversationView,
    EndReason,
    Instant,
    Micros,
    Origin,
    Run,
    RunStatus,
    Strategy,
    Visibility,
    WaitKind,
)
from .rejections import Reason, Rejection, already_ended, not_found
from .usage import Budget


def _view(transition: Transition, changes: Changes, facts: ConversationFacts) -> ConversationView:
    conversation = changes.conversation or transition.conversation
    run = transition.runs[conversation.root_run_id]
    return ConversationView(conversation, changes.facts or facts, run)


@dataclass(frozen=True, slots=True)
class StartConversation:
    """Writes a conversation, its first run and its first events."""

    tenant: str
    conversation_id: str
    run_id: str
    message_id: str
    facts: ConversationFacts
    definition: tuple[str, bytes]
    max_rounds: int
    principal: str
    budget: Budget
    timeout: Micros | None
    priority: int
    human_input: bool
    traceparent: str
    task: UserMessage | None = None
    """The first message, if it is more than the words of `facts.task`."""
    owner: str = ""
    visibility: Visibility = Visibility.PRIVATE
    keeper: str = ""
    """The subject that starts it for its owner and keeps access, if that is not theirs anyway."""

    @property
    def scope(self) -> Scope:
        """Nothing exists yet."""
        return Scope(self.tenant, self.conversation_id)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[ConversationView]:
        """Always yes: the id is new."""
        blank = owned(
            Conversation(self.tenant, self.conversation_id, now, self.run_id),
            self.owner,
            self.visibility,
        )
        transition = Transition(replace(loaded, conversation=blank), self.scope, now)
        transition.facts = self.facts
        transition.definitions.append(self.definition)
        if self.keeper:
            key, name = Grantee(self.keeper).key, self.conversation_id
            transition.records.append(Grant(name, key, Access.WRITE, now, self.keeper, now))
        transition.append(
            ConversationStarted(
                self.facts.task, self.facts.agents, self.facts.workflow, self.principal
            ),
            Origin.API,
        )
        run = Run(
            tenant=self.tenant,
            run_id=self.run_id,
            conversation_id=self.conversation_id,
            root_run_id=self.run_id,
            definition_digest=self.definition[0],
            started_at=now,
            max_rounds=self.max_rounds,
            deadline=runs.deadline_of(now, self.timeout, self.budget.max_wall_time),
            timeout=self.timeout,
            budget=self.budget,
            traceparent=self.traceparent,
            priority=self.priority,
            human_input=self.human_input,
        )
        runs.start(transition, run, Origin.API)
        sequence = transition.append(
            self.task or UserMessage(self.message_id, "user", self.facts.task, self.principal),
            Origin.API,
            self.run_id,
        )
        transition.add_input(self.run_id, sequence)
        runs.reflect(transition)
        changes = transition.done()
        return Decision(changes, _view(transition, changes, self.facts))


@dataclass(frozen=True, slots=True)
class MessageSent:
    """A message as recorded."""

    message_id: str
    sequence: int
    run_id: str
    status: ConversationStatus


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Adds a message to the inbox of the run under way, or starts a run that reads it."""

    tenant: str
    conversation_id: str
    message: UserMessage
    strategy: Strategy
    new_run_id: str
    traceparent: str

    @property
    def scope(self) -> Scope:
        """The conversation with its live runs."""
        return Scope(
            self.tenant,
            self.conversation_id,
            live_runs=True,
            newest_turn=self.strategy is Strategy.REPLACE_TURN,
            last_messages=self.strategy is Strategy.REPLACE_TURN,
        )

    def decide(self, loaded: Loaded, now: Instant) -> Decision[MessageSent]:
        """Refused only by REJECT_IF_RUNNING."""
        transition = Transition(loaded, self.scope, now)
        run = transition.run(transition.conversation.root_run_id)
        if run.status.ended:
            run = runs.succeed(transition, run, self.new_run_id, self.traceparent, Origin.API)
        else:
            run = self._steer(transition, run, loaded)
        sequence = transition.append(self.message, Origin.API, run.run_id)
        run = transition.add_input(run.run_id, sequence)
        if run.waiting_for is WaitKind.INPUT:
            run = runs.go_on_if_free(transition, run, Origin.API)
        runs.reflect(transition)
        sent = MessageSent(
            self.message.message_id, sequence, run.run_id, transition.conversation.status
        )
        return Decision(transition.done(), sent)

    def _steer(self, transition: Transition, run: Run, loaded: Loaded) -> Run:
        if self.strategy is Strategy.REJECT_IF_RUNNING:
            raise Rejection(
                Reason.RUN_UNDER_WAY,
                f"a run of {self.conversation_id} is under way: {run.status.name.lower()}",
                status=run.status.name.lower(),
                run_id=run.run_id,
            )
        if self.strategy is Strategy.AFTER_TURN or run.status is RunStatus.PAUSED:
            return run
        committed = loaded.committed
        newest_turn = run.turn
        run = runs.discard_turn(transition, run, "interrupted", Origin.API)
        replaceable = (
            self.strategy is Strategy.REPLACE_TURN
            and committed is not None
            and committed.run_id == run.run_id
            and committed.turn == newest_turn
            and not committed.discarded
        )
        if not replaceable or committed is None or loaded.conversation is None:
            return run
        return self._undo(transition, run, committed, loaded.conversation)

    def _undo(
        self, transition: Transition, run: Run, committed: CommittedTurn, before: Conversation
    ) -> Run:
        """Puts the run back to before a committed turn, without what that turn set going."""
        runs.end_children(transition, run, Origin.API, "its turn was replaced")
        run = resolving.withdraw(transition, transition.run(run.run_id), Origin.API, committed.turn)
        transition.append(
            TurnDiscarded("replaced", committed.message_ids),
            Origin.API,
            run.run_id,
            committed.turn,
        )
        run = replace(
            run,
            checkpoint_id=committed.previous_checkpoint_id,
            rounds=max(0, run.rounds - 1),
            last_message=committed.previous_message,
            committed_message=committed.previous_message,
            inbox_read=committed.previous_read,
        )
        run = workspaces.go_before(
            transition, transition.put(run), workspaces.as_before_turn(committed.turn), Origin.API
        )
        transition.committed.append(replace(committed, discarded=True))
        transition.records.append(milestone(before, transition, run))
        if run.status is RunStatus.WAITING:
            run = runs.wake(transition, run, Origin.API)
        return transition.put(run)


@dataclass(frozen=True, slots=True)
class CancelConversation:
    """Ends the run tree under way. What has ended stays as it is."""

    tenant: str
    conversation_id: str
    reason: str

    @property
    def scope(self) -> Scope:
        """The conversation with its live runs and what they said."""
        return Scope(
            self.tenant, self.conversation_id, live_runs=True, facts=True, last_messages=True
        )

    def decide(self, loaded: Loaded, now: Instant) -> Decision[ConversationView]:
        """Always yes."""
        transition = Transition(loaded, self.scope, now)
        root = transition.run(transition.conversation.root_run_id)
        if not root.status.ended:
            runs.end_by_force(
                transition,
                root,
                RunStatus.CANCELLED,
                EndReason.CANCELLED,
                self.reason,
                Origin.API,
            )
            runs.reflect(transition)
        return decided(transition, loaded)


@dataclass(frozen=True, slots=True)
class PauseConversation:
    """Stops the run under way, and those it started, after their current turns."""

    tenant: str
    conversation_id: str

    @property
    def scope(self) -> Scope:
        """The conversation with its live runs."""
        return Scope(self.tenant, self.conversation_id, live_runs=True, facts=True)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[ConversationView]:
        """Refused once the run has ended. Pausing twice is harmless."""
        transition = Transition(loaded, self.scope, now)
        run = transition.run(transition.conversation.root_run_id)
        if run.status.ended:
            raise already_ended("conversation", self.conversation_id, run.status.name)
        for live in _tree(transition, run):
            if live.status is RunStatus.LEASED:
                transition.put(replace(live, pause_requested=True))
            elif live.status is not RunStatus.PAUSED:
                runs.pause(transition, transition.raise_fence(live, "paused"), Origin.API)
        runs.reflect(transition)
        return decided(transition, loaded)


@dataclass(frozen=True, slots=True)
class ResumeConversation:
    """Lets a paused run go on; after a failure, starts a run from the last good turn."""

    tenant: str
    conversation_id: str
    new_run_id: str
    traceparent: str

    @property
    def scope(self) -> Scope:
        """The conversation with its live runs."""
        return Scope(self.tenant, self.conversation_id, live_runs=True, facts=True)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[ConversationView]:
        """Refused for a run that completed or was cancelled; a run at work just goes on."""
        transition = Transition(loaded, self.scope, now)
        run = transition.run(transition.conversation.root_run_id)
        if run.status in (RunStatus.FAILED, RunStatus.DEAD_LETTER):
            # The turn that failed is taken again, in the stage of the team that it belongs to.
            runs.succeed(
                transition, run, self.new_run_id, self.traceparent, Origin.API, rounds=run.rounds
            )
        elif run.status.ended:
            raise already_ended("conversation", self.conversation_id, run.status.name)
        for live in _tree(transition, run):
            if live.status is RunStatus.PAUSED:
                self._resume(transition, live)
            elif live.pause_requested:
                transition.put(replace(live, pause_requested=False))
        runs.reflect(transition)
        return decided(transition, loaded)

    def _resume(self, transition: Transition, run: Run) -> None:
        if runs.still_waits(transition, run):
            transition.put(replace(run, status=RunStatus.WAITING))
            still = RunStatusChanged(RunStatus.WAITING, run.waiting_for, run.detail)
            transition.append(still, Origin.API, run.run_id, run.turn)
        else:
            runs.wake(transition, run, Origin.API)


def _tree(transition: Transition, root: Run) -> list[Run]:
    """The live runs of a root, itself first."""
    below = [
        run
        for run in transition.runs.values()
        if run.root_run_id == root.run_id and run is not root and not run.status.ended
    ]
    return [root, *below] if not root.status.ended else below


def decided(transition: Transition, loaded: Loaded) -> Decision[ConversationView]:
    """The transition, and how the conversation looks after it."""
    if loaded.facts is None:
        raise not_found("conversation", transition.conversation.conversation_id)
    changes = transition.done()
    return Decision(changes, _view(transition, changes, loaded.facts))
