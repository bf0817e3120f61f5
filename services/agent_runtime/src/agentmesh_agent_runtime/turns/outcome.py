"""What becomes of a run after a turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentmesh_agent_runtime.definitions.graphs import GRAPH_IS_DONE
from agentmesh_agent_runtime.definitions.specs import HumanInputMode, TeamKind, TeamSpec
from agentmesh_agent_runtime.turns.conditions import ANSWERED
from agentmesh_agent_runtime.turns.failures import EndReason
from agentmesh_agent_runtime.turns.grant import Grant, Input
from agentmesh_agent_runtime.turns.termination import Utterance, handed_out

_SPOKEN = frozenset(
    {"TextMessage", "MultiModalMessage", "HandoffMessage", "ToolCallSummaryMessage"}
)
ONE_TURN_TAKEN = "Maximum number of turns 1 reached."
"""Why AutoGen's teams stop after each turn. Whatever else it is, was the team's own wish."""
_GOODBYES = frozenset({"exit", "quit", "terminate"})


def utterances(thread: Iterable[Mapping[str, Any]]) -> list[Utterance]:
    """What was said at the end of turns, of the messages that a manager keeps."""
    return [
        Utterance(message["source"], _words(message["content"]), message.get("target") or "")
        for message in thread
        if message.get("type") in _SPOKEN
    ]


def _words(content: str | Sequence[Any]) -> str:
    """Of a message with images its texts."""
    if isinstance(content, str):
        return content
    return "\n".join(part for part in content if isinstance(part, str))


def finished(team: TeamSpec, stopped_by: str) -> str | None:
    """Why the team itself says that it has nothing left to do, or None."""
    if team.kind is TeamKind.GRAPH and stopped_by == GRAPH_IS_DONE:
        return "the graph has come to its end"
    if team.kind is TeamKind.MAGENTIC_ONE and stopped_by != ANSWERED:
        return f"the orchestrator is done: {stopped_by}"
    if team.kind is TeamKind.COMPONENT and stopped_by not in ("", ONE_TURN_TAKEN):
        return f"the team is done: {stopped_by}"
    return None


def what_next(
    grant: Grant, said: Sequence[Utterance], speaker: str, done: str | None, *, said_goodbye: bool
) -> tuple[EndReason | None, bool, str]:
    """Whether and why the run ends, whether it waits for a person, and a word about it."""
    if said_goodbye:
        return EndReason.TERMINATED, False, "a person ended the conversation"
    asks_people = _asks_people(grant)
    modes = {agent.id: agent.human_input_mode for agent in grant.team.agents_in_run()}
    rounds_left = grant.max_rounds <= 0 or grant.rounds + 1 < grant.max_rounds
    if done is not None:
        asks = bool({HumanInputMode.TERMINATE, HumanInputMode.ALWAYS} & set(modes.values()))
        asks = asks or handed_out(grant.team, said) is not None
        if asks_people and asks and rounds_left:
            return None, True, f"{done}; answer to go on, or say 'exit'"
        return EndReason.TERMINATED, False, done
    if not rounds_left:
        return EndReason.MAX_ROUNDS, False, f"{grant.max_rounds} rounds were taken"
    if asks_people and modes.get(speaker) is HumanInputMode.ALWAYS:
        return None, True, f"{speaker} waits for an answer; say 'exit' to end"
    return None, False, ""


def says_goodbye(grant: Grant, inputs: Sequence[Input]) -> bool:
    """Whether a person has just said a word that ends the run."""
    return (
        _asks_people(grant)
        and grant.rounds > 0
        and bool(inputs)
        and inputs[-1].text.strip().lower() in _GOODBYES
    )


def _asks_people(grant: Grant) -> bool:
    """A run that works for another one is not spoken to: it answers that one instead."""
    return grant.human_input and not grant.path
