"""Finds what would keep a definition from running, without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agentmesh_agent_runtime.definitions.specs import (
    AgentSpec,
    ContextSpec,
    LlmSettings,
    TeamKind,
    TeamSpec,
    TerminationSpec,
)

SERVED_KINDS = (TeamKind.SINGLE, TeamKind.ROUND_ROBIN)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where in the document, and what to do about it."""

    path: str
    description: str


ModelCheck = Callable[[LlmSettings], Finding | None]
"""Says what is wrong with model settings, at its path within them, or None."""


def check_agent(agent: AgentSpec, path: str, model_problem: ModelCheck) -> Iterator[Finding]:
    """Everything that keeps one agent from running."""
    if not agent.id.isidentifier():
        yield Finding(
            f"{path}.id",
            f"{agent.id!r} is no identifier; use letters, digits and underscores",
        )
    problem = model_problem(agent.llm_config)
    if problem is not None:
        yield Finding(f"{path}.llm_config.{problem.path}", problem.description)
    for tool in agent.tool_config:
        if tool not in agent.tools:
            yield Finding(
                f"{path}.tool_config.{tool}",
                f"configures a tool that the agent does not have; add {tool!r} to tools",
            )
    if agent.component:
        yield Finding(f"{path}.component", "components are not served by this version; remove it")
    if agent.handoffs:
        yield Finding(
            f"{path}.handoffs",
            "handoffs are not served by this version; remove them",
        )
    yield from _check_context(agent.context, f"{path}.context")


def check_team(
    team: TeamSpec, path: str, model_problem: ModelCheck, known_agents: Iterable[str] = ()
) -> Iterator[Finding]:
    """Everything that keeps one team from running.

    `known_agents` are ids that the caller will resolve; members may also be written in place.
    """
    if team.kind not in SERVED_KINDS:
        served = ", ".join(SERVED_KINDS)
        yield Finding(f"{path}.kind", f"{team.kind} is not served by this version; use {served}")
    if not team.participants:
        yield Finding(f"{path}.participants", "a team needs at least one member")
    if team.kind is TeamKind.SINGLE and len(team.participants) > 1:
        yield Finding(f"{path}.participants", "a single team has exactly one member")
    names: list[str] = []
    known = set(known_agents)
    for index, member in enumerate(team.participants):
        where = f"{path}.participants[{index}]"
        if isinstance(member, AgentSpec):
            names.append(member.id)
            yield from check_agent(member, f"{where}.agent", model_problem)
        elif isinstance(member, TeamSpec):
            names.append(member.id)
            yield Finding(f"{where}.team", "nested teams are not served by this version")
        else:
            names.append(member)
            if known and member not in known:
                yield Finding(where, f"there is no agent {member!r}; define it or mend the id")
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Finding(f"{path}.participants[{index}]", f"{name!r} is a member already")
    for index, stage in enumerate(team.stages):
        if stage.agent not in names:
            yield Finding(
                f"{path}.stages[{index}].agent",
                f"{stage.agent!r} is no member of the team; add it to participants",
            )
    yield from _check_termination(team.termination, f"{path}.termination", names)


def _check_termination(
    termination: TerminationSpec, path: str, members: list[str]
) -> Iterator[Finding]:
    if termination.component:
        yield Finding(f"{path}.component", "components are not served by this version; remove it")
    for field in ("sources", "text_mention_sources"):
        for index, source in enumerate(getattr(termination, field)):
            if source not in members:
                yield Finding(
                    f"{path}.{field}[{index}]",
                    f"{source!r} is no member of the team, so this never holds",
                )
    for index, part in enumerate(termination.all_of):
        yield from _check_termination(part, f"{path}.all_of[{index}]", members)


def _check_context(context: ContextSpec, path: str) -> Iterator[Finding]:
    if context.unserved:
        yield Finding(
            f"{path}.{context.unserved}",
            "is not served by this version; use buffered or head_and_tail",
        )
