"""Finds what would keep a definition from running, without running it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from agentmesh_agent_runtime.components import ComponentKind, Components
from agentmesh_agent_runtime.definitions import output_schemas, tokens
from agentmesh_agent_runtime.definitions.check_approvals import (
    check_agent_approvals,
    check_team_approvals,
)
from agentmesh_agent_runtime.definitions.check_components import (
    check_component,
    check_conditions,
    check_team_component,
)
from agentmesh_agent_runtime.definitions.check_kinds import check_depth, check_kind, check_nested
from agentmesh_agent_runtime.definitions.check_network import check_network
from agentmesh_agent_runtime.definitions.findings import Finding, ModelCheck
from agentmesh_agent_runtime.definitions.specs import (
    AgentSpec,
    TeamKind,
    TeamSpec,
    TerminationSpec,
)

ToolTokens = Mapping[str, int]
"""What descriptions of tools take of a context, by name; tools left out are not known yet."""

_NOT_KNOWN: Final[ToolTokens] = MappingProxyType({})


def check_agent(
    agent: AgentSpec,
    path: str,
    model_problem: ModelCheck,
    tool_tokens: ToolTokens = _NOT_KNOWN,
    components: Components | None = None,
) -> Iterator[Finding]:
    """Everything that keeps one agent from running."""
    if not agent.id.isidentifier():
        yield Finding(
            f"{path}.id",
            f"{agent.id!r} is no identifier; use letters, digits and underscores",
        )
    problem = model_problem(agent.llm_config)
    if problem is not None:
        yield Finding(f"{path}.llm_config.{problem.path}", problem.description)
    for tool, settings in agent.tool_config.items():
        yield from check_network(settings.network, f"{path}.tool_config.{tool}.network")
        if tool not in agent.tools:
            yield Finding(
                f"{path}.tool_config.{tool}",
                f"configures a tool that the agent does not have; add {tool!r} to tools",
            )
    yield from check_component(
        components or Components(),
        ComponentKind.AGENT,
        agent.component,
        agent.component_config,
        path,
    )
    if agent.output_schema and agent.component:
        yield Finding(f"{path}.output_schema", "is for agents without a component; remove it")
    elif agent.output_schema:
        yield from output_schemas.problems(agent.output_schema, f"{path}.output_schema")
    yield from _check_context(agent, f"{path}.context", tool_tokens)
    yield from check_agent_approvals(agent, path)


def check_team(
    team: TeamSpec,
    path: str,
    model_problem: ModelCheck,
    known_agents: Iterable[str] = (),
    components: Components | None = None,
    tool_tokens: ToolTokens = _NOT_KNOWN,
    *,
    pinned: bool = False,
) -> Iterator[Finding]:
    """Everything that keeps one team from running.

    `known_agents` are ids that the caller will resolve; members may also be written in place.
    `pinned` is a team as a run has it: perhaps without some of its members.
    """
    components = components or Components()
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
            yield from check_agent(member, f"{where}.agent", model_problem, tool_tokens, components)
        elif isinstance(member, TeamSpec):
            names.append(member.id)
            yield from check_team(
                member,
                f"{where}.team",
                model_problem,
                known_agents,
                components,
                tool_tokens,
                pinned=pinned,
            )
            yield from check_nested(team, member, f"{where}.team")
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
    yield from _check_instructions(team, path)
    members = [*names, *team.speakers()]
    yield from _check_termination(team.termination, f"{path}.termination", members)
    yield from check_conditions(team.termination, f"{path}.termination", components)
    yield from check_team_approvals(team, path, names=not pinned)
    yield from check_team_component(team, path, components)
    yield from check_kind(team, path, names, model_problem, components)
    if not pinned:
        yield from check_depth(team, path)


def _check_termination(
    termination: TerminationSpec, path: str, members: list[str]
) -> Iterator[Finding]:
    for field in ("sources", "text_mention_sources"):
        for index, source in enumerate(getattr(termination, field)):
            if source not in members:
                yield Finding(
                    f"{path}.{field}[{index}]",
                    f"{source!r} is no member of the team, so this never holds",
                )
    for index, part in enumerate(termination.all_of):
        yield from _check_termination(part, f"{path}.all_of[{index}]", members)


def _check_context(agent: AgentSpec, path: str, tool_tokens: ToolTokens) -> Iterator[Finding]:
    """Tools that are not known here count at the turn, which checks again."""
    limit = agent.context.limit
    if limit is None:
        return
    field, most = limit
    system = tokens.of_message(agent.system_message)
    tools = sum(tool_tokens.get(tool, 0) for tool in agent.usable_tools())
    if system + tools >= most:
        with_tools = f" and the tools {tools}" if tools else ""
        yield Finding(
            f"{path}.{field}",
            f"leaves no room for messages: the system message takes {system} tokens{with_tools}; "
            "raise it",
        )


def _check_instructions(team: TeamSpec, path: str) -> Iterator[Finding]:
    """A stage's instructions stand beside the system message."""
    members = {agent.id: agent for agent in team.agents()}
    for index, stage in enumerate(team.stages):
        member = members.get(stage.agent)
        limit = member.context.limit if member else None
        if member is None or limit is None:
            continue
        system = tokens.of_message(member.system_message)
        taken = system + tokens.of_message(stage.instructions.strip())
        if system < limit[1] <= taken:
            yield Finding(
                f"{path}.stages[{index}].instructions",
                f"takes {taken} tokens with the system message of {member.id!r}, whose context has "
                f"{limit[1]}; raise its max_tokens or shorten them",
            )
