"""Changing what a conversation is marked with, its limits, and how long its history is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import runs
from .access import owned
from .changes import Decision, Loaded, Scope, Transition
from .children import move_deadlines
from .conversations import decided
from .events import (
    ConversationUpdated,
)
from .model import (
    ConversationFacts,
    ConversationView,
    Instant,
    Micros,
    Origin,
    Visibility,
)
from .rejections import Reason, Rejection, not_found
from .usage import Budget


@dataclass(frozen=True, slots=True)
class UpdateConversation:
    """Changes labels, limits of the run under way, and how long history is kept.

    None leaves a field as it is; retention that is not above zero is as the tenant's policy says.
    """

    tenant: str
    conversation_id: str
    labels: Mapping[str, str] | None
    max_rounds: int | None
    budget: Budget | None
    etag: str
    legal_hold: bool | None = None
    retention_age: Micros | None = None
    retention_events: int | None = None
    visibility: Visibility | None = None

    @property
    def scope(self) -> Scope:
        """The conversation with its newest root run."""
        return Scope(self.tenant, self.conversation_id, live_runs=True, facts=True)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[ConversationView]:
        """Refused if `etag` is not the current one."""
        transition = Transition(loaded, self.scope, now)
        current = transition.conversation.etag
        if self.etag and self.etag != current:
            raise Rejection(
                Reason.ETAG_MISMATCH,
                f"{self.conversation_id} changed since it was read",
                current_etag=current,
            )
        run = transition.run(transition.conversation.root_run_id)
        if self.max_rounds is not None:
            run = transition.put(replace(run, max_rounds=self.max_rounds))
        if self.budget is not None:
            wall = self.budget.max_wall_time
            deadline = runs.deadline_of(run.started_at, run.timeout, wall)
            run = transition.put(replace(run, budget=self.budget, deadline=deadline))
            move_deadlines(transition, run)
        facts = loaded.facts
        if facts is None:
            raise not_found("conversation", self.conversation_id)
        if self.labels is not None:
            facts = replace(facts, labels=dict(self.labels))
            transition.append(ConversationUpdated(dict(self.labels)), Origin.API)
        facts = self._kept(facts)
        if facts is not loaded.facts:
            transition.facts = facts
        if self.visibility not in (None, transition.conversation.visibility):
            owner = transition.conversation.owner
            transition.conversation = owned(transition.conversation, owner, self.visibility)
        return decided(transition, loaded)

    def _kept(self, facts: ConversationFacts) -> ConversationFacts:
        if self.legal_hold is not None:
            facts = replace(facts, legal_hold=self.legal_hold)
        if self.retention_age is not None:
            facts = replace(facts, retention_age=max(self.retention_age, 0) or None)
        if self.retention_events is not None:
            facts = replace(facts, retention_events=max(self.retention_events, 0) or None)
        return facts
