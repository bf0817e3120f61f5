"""Conditions of teams within teams, which AutoGen judges while the turn goes on.

The outer team's are judged between turns; see termination.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import and_, or_

from autogen_agentchat.base import TerminationCondition
from autogen_agentchat.conditions import (
    HandoffTermination,
    MaxMessageTermination,
    SourceMatchTermination,
    TextMentionTermination,
)
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, StopMessage

from agentmesh_agent_runtime.definitions.specs import TeamSpec, TerminationSpec
from agentmesh_agent_runtime.turns.termination import DEFAULT

ANSWERED = "one member has answered"


MakeCondition = Callable[[TerminationSpec, Sequence[str]], TerminationCondition]
"""Makes the condition of a package that a spec names, for these members."""


def conditions_of(team: TeamSpec, of_package: MakeCondition) -> TerminationCondition:
    """When a team within a team is done."""
    spec = DEFAULT if team.termination.is_empty() else team.termination
    members = team.speakers()
    return reduce(or_, _alternatives(spec, members, of_package))


def _alternatives(
    spec: TerminationSpec, members: Sequence[str], of_package: MakeCondition
) -> Iterator[TerminationCondition]:
    sources = spec.text_mention_sources or members
    for text in spec.text_mentions:
        yield TextMentionTermination(text, sources=list(sources))
    if spec.max_messages is not None:
        yield MaxMessageTermination(spec.max_messages)
    for target in spec.handoff_to:
        yield HandoffTermination(target)
    if spec.sources:
        yield SourceMatchTermination(list(spec.sources))
    if spec.component:
        yield of_package(spec, members)
    if spec.all_of:
        parts = [reduce(or_, _alternatives(part, members, of_package)) for part in spec.all_of]
        yield reduce(and_, parts)


class OneAnswer(TerminationCondition):
    """Stops a team after each answer of a member, where counting turns means something else."""

    def __init__(self) -> None:
        self._stopped = False

    @property
    def terminated(self) -> bool:
        """Whether it has stopped the team and was not reset since."""
        return self._stopped

    async def __call__(self, messages: Sequence[BaseAgentEvent | BaseChatMessage]) -> StopMessage:
        """Always stops."""
        self._stopped = True
        return StopMessage(content=ANSWERED, source="agentmesh")

    async def reset(self) -> None:
        """Begins again."""
        self._stopped = False
