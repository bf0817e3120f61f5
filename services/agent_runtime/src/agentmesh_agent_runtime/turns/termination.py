"""When a team is done, judged by the messages of its run and not by the team's own memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentmesh_agent_runtime.definitions.specs import TeamKind, TeamSpec, TerminationSpec

DEFAULT = TerminationSpec(text_mentions=("TERMINATE",))


Verdict = Callable[[TerminationSpec], str | None]
"""Why the condition of a package that a spec names holds, or None."""


def no_verdict(condition: TerminationSpec) -> str | None:
    """Where no spec names one."""
    return None


@dataclass(frozen=True)
class Utterance:
    """What one member or person said at the end of a turn. `target` is set for handoffs."""

    source: str
    text: str
    target: str = ""


def why_done(
    team: TeamSpec, said: Sequence[Utterance], verdict: Verdict = no_verdict
) -> str | None:
    """Why the team is done after what was `said` in its run, or None.

    A single agent is done when it has answered; any other team without conditions when one of its
    agents says TERMINATE.
    """
    members = frozenset(team.speakers())
    if handed_out(team, said) is not None:
        return f"{said[-1].source} handed over to {said[-1].target}"
    if team.termination.is_empty():
        if team.kind is TeamKind.SINGLE and said and said[-1].source in members:
            return "the agent has answered"
        return _holds(DEFAULT, said, members, verdict)
    return _holds(team.termination, said, members, verdict)


def handed_out(team: TeamSpec, said: Sequence[Utterance]) -> str | None:
    """The member of a swarm that has handed over to somebody who is none, or None."""
    if team.kind is not TeamKind.SWARM:
        return None
    members = team.speakers()
    latest = next((u for u in reversed(said) if u.target), None)
    return latest.source if latest is not None and latest.target not in members else None


def _holds(
    condition: TerminationSpec,
    said: Sequence[Utterance],
    members: frozenset[str],
    verdict: Verdict,
) -> str | None:
    by_agents = [u for u in said if u.source in members]
    counting = frozenset(condition.text_mention_sources) or members
    for text in condition.text_mentions:
        for utterance in by_agents:
            if utterance.source in counting and text in utterance.text:
                return f"{utterance.source} said {text!r}"
    if condition.max_messages is not None and len(said) >= condition.max_messages:
        return f"the run has {len(said)} messages"
    for utterance in by_agents:
        if utterance.target and utterance.target in condition.handoff_to:
            return f"{utterance.source} handed over to {utterance.target}"
        if utterance.source in condition.sources:
            return f"{utterance.source} has spoken"
    if condition.component and (why := verdict(condition)) is not None:
        return why
    if condition.all_of:
        reasons = [_holds(part, said, members, verdict) for part in condition.all_of]
        if all(reasons):
            return " and ".join(reason for reason in reasons if reason)
    return None
