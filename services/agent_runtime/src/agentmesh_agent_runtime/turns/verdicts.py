"""What termination conditions of packages say of the messages of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, MessageFactory, TextMessage

from agentmesh_agent_runtime.components import ComponentError
from agentmesh_agent_runtime.definitions.specs import TeamSpec, TerminationSpec
from agentmesh_agent_runtime.models.whole_text import valid
from agentmesh_agent_runtime.turns.failures import InvalidDefinition
from agentmesh_agent_runtime.turns.hosting import Host
from agentmesh_agent_runtime.turns.reporting import STATE_SECONDS, reported
from agentmesh_agent_runtime.turns.termination import Verdict, no_verdict

LONGEST_REASON: Final = 500

_MESSAGES = MessageFactory()


async def verdicts(team: TeamSpec, thread: Iterable[Mapping[str, Any]], host: Host) -> Verdict:
    """Asks each condition once, with all messages of the run.

    A fresh condition has nothing to remember, and so nothing to lose with its process.
    """
    conditions = list(team.termination.components())
    if not conditions:
        return no_verdict
    messages = [_message(kept) for kept in thread]
    agents = team.speakers()
    found: list[tuple[TerminationSpec, str]] = []
    for spec in conditions:
        try:
            condition = host.condition(spec, agents)
        except ComponentError as error:
            raise InvalidDefinition(f"termination.component: {error}") from error
        what = f"termination component {spec.component!r}"
        stop = await reported(what, condition(messages), STATE_SECONDS)
        if stop is not None:
            said = valid(stop.to_text())[:LONGEST_REASON]
            found.append((spec, said or f"{spec.component} holds"))
    return lambda asked: next((why for spec, why in found if spec is asked), None)


def _message(kept: Mapping[str, Any]) -> BaseAgentEvent | BaseChatMessage:
    """As the manager of the team has it; a type of its own comes as a text."""
    try:
        return _MESSAGES.create(kept)
    except ValueError:
        return TextMessage(content=str(kept.get("content", "")), source=str(kept["source"]))
