"""From the names in a request to one definition with nothing left to look up.

What a run pins goes on unchanged when the catalog changes under it, and it needs neither the
catalog nor this service any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from agentmesh.catalog.v1.agent_pb2 import AgentDefinition
from agentmesh.catalog.v1.team_pb2 import Participant, TeamDefinition, TeamKind, Termination
from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation_store.v1.catalog_service_pb2 import DocumentKind
from meshkit.builtin_tools import BUILTIN_TOOLS
from meshkit.errors import FieldViolation, MeshError

from agentmesh_gateway.definitions.catalog import Catalog
from agentmesh_gateway.definitions.team_selection import (
    Fault,
    left_out,
    listing,
    missing_closers,
    outsiders,
    repeated_agents,
    unknown_agents,
)

_DEEPEST_TEAM = 8
# Kinds whose remaining members still make a whole team when some are left out.
_DIVISIBLE = frozenset({TeamKind.TEAM_KIND_ROUND_ROBIN, TeamKind.TEAM_KIND_SELECTOR})
_AD_HOC_TEAM = "conversation"


@dataclass(frozen=True, slots=True)
class Pinned:
    """A definition that can run, and the ids of all its agents in order."""

    definition: TeamDefinition
    agents: tuple[str, ...]


async def pin(catalog: Catalog, agents: Sequence[str], workflow: str) -> Pinned:
    """Resolves what a caller named. Raises INVALID_ARGUMENT or FAILED_PRECONDITION."""
    if not agents and not workflow:
        refuse([Fault("agents", "name at least one agent, or a team as `workflow`")])
    refuse(repeated_agents(agents))
    if workflow:
        team = await _named_team(catalog, workflow)
        _restrict(team, agents)
    else:
        team = await _team_of(catalog, agents)
    await _inline(catalog, team, (team.id,))
    members = list(members_of(team))
    await require_tools(catalog, members)
    return Pinned(team, tuple(dict.fromkeys(agent.id for agent in members)))


async def pin_member(catalog: Catalog, member: Participant, workflow: str) -> Pinned:
    """Resolves who carries out a stage of a workflow. Raises FAILED_PRECONDITION."""
    alone = TeamDefinition(id=workflow, kind=TeamKind.TEAM_KIND_SINGLE, participants=[member])
    await _inline(catalog, alone, (f"{workflow} (workflow)",))
    part = alone.participants[0]
    team = part.team if part.HasField("team") else alone
    members = list(members_of(team))
    await require_tools(catalog, members)
    return Pinned(team, tuple(dict.fromkeys(agent.id for agent in members)))


def refuse(faults: Sequence[Fault]) -> None:
    """Raises INVALID_ARGUMENT with every fault, if there is one."""
    if faults:
        raise MeshError.invalid_fields(
            [FieldViolation(fault.field, fault.description) for fault in faults]
        )


async def _named_team(catalog: Catalog, workflow: str) -> TeamDefinition:
    teams = await catalog.teams([workflow])
    if workflow in teams:
        return teams[workflow]
    if await catalog.documents(DocumentKind.DOCUMENT_KIND_WORKFLOW, [workflow]):
        raise MeshError.invalid(
            "workflow", f'"{workflow}" is a workflow with parameters: execute it; or name a team'
        )
    known = await catalog.names(DocumentKind.DOCUMENT_KIND_TEAM)
    raise MeshError.invalid("workflow", f'there is no "{workflow}"; known: {listing(known)}')


async def _team_of(catalog: Catalog, agents: Sequence[str]) -> TeamDefinition:
    found = await catalog.agents(agents)
    if len(found) != len(agents):
        known = await catalog.names(DocumentKind.DOCUMENT_KIND_AGENT)
        refuse(unknown_agents(agents, found, known))
    kind = TeamKind.TEAM_KIND_SINGLE if len(agents) == 1 else TeamKind.TEAM_KIND_ROUND_ROBIN
    return TeamDefinition(
        id=_AD_HOC_TEAM,
        kind=kind,
        participants=[Participant(agent=found[name]) for name in agents],
    )


def _restrict(team: TeamDefinition, agents: Sequence[str]) -> None:
    """Leaves those members in the team that the caller listed, with their stages; all if none."""
    if not agents:
        return
    members = [_name(participant) for participant in team.participants]
    refuse(outsiders(agents, team.id, members))
    if team.kind not in _DIVISIBLE:
        refuse(left_out(agents, team.id, members))
    closers = dict.fromkeys(name for name in _sources(team.termination) if name in members)
    refuse(missing_closers(agents, team.id, list(closers)))
    kept = [part for part in team.participants if _name(part) in agents]
    stages = [stage for stage in team.stages if stage.agent in agents]
    del team.participants[:]
    team.participants.extend(kept)
    del team.stages[:]
    team.stages.extend(stages)


def _sources(termination: Termination) -> Iterator[str]:
    """Whose words the conditions wait for. Without one of them a runtime refuses the team."""
    yield from termination.sources
    yield from termination.text_mention_sources
    for part in termination.all_of:
        yield from _sources(part)


def _name(participant: Participant) -> str:
    match participant.WhichOneof("kind"):
        case "agent_id":
            return participant.agent_id
        case "team_id":
            return participant.team_id
        case "team":
            return participant.team.id
        case _:
            return participant.agent.id


async def _inline(catalog: Catalog, team: TeamDefinition, ancestry: tuple[str, ...]) -> None:
    """Replaces every reference in `team`, and in the teams within it, by what it names."""
    if len(ancestry) > _DEEPEST_TEAM:
        _cannot_run(ancestry, f"teams are nested deeper than {_DEEPEST_TEAM} levels")
    agents = await catalog.agents({part.agent_id for part in team.participants if part.agent_id})
    teams = await catalog.teams({part.team_id for part in team.participants if part.team_id})
    for part in team.participants:
        if part.HasField("agent_id"):
            if part.agent_id not in agents:
                _cannot_run(ancestry, f'there is no agent "{part.agent_id}"')
            part.agent.CopyFrom(agents[part.agent_id])
        elif part.HasField("team_id"):
            if part.team_id in ancestry:
                _cannot_run(ancestry, f'"{part.team_id}" contains itself')
            if part.team_id not in teams:
                _cannot_run(ancestry, f'there is no team "{part.team_id}"')
            part.team.CopyFrom(teams[part.team_id])
        if part.HasField("team"):
            await _inline(catalog, part.team, (*ancestry, part.team.id))
    if not team.participants:
        _cannot_run(ancestry, "it has no members")


def _cannot_run(ancestry: tuple[str, ...], why: str) -> NoReturn:
    path = "/".join(ancestry)
    raise MeshError.precondition(
        errors_pb2.ERROR_REASON_INVALID_DEFINITION,
        f'the team "{path}" cannot run: {why}',
        path=path,
    )


def members_of(team: TeamDefinition) -> Iterator[AgentDefinition]:
    """All agents of a pinned team and of the teams within it, in order."""
    for part in team.participants:
        if part.HasField("team"):
            yield from members_of(part.team)
        else:
            yield part.agent


def tools_of(agent: AgentDefinition) -> list[str]:
    """The tools of the catalog that an agent is given: those listed and not switched off."""
    return [
        name
        for name in agent.tools
        if name not in BUILTIN_TOOLS
        and (
            name not in agent.tool_config
            or not agent.tool_config[name].HasField("enabled")
            or agent.tool_config[name].enabled
        )
    ]


async def require_tools(catalog: Catalog, agents: Sequence[AgentDefinition]) -> None:
    """Raises FAILED_PRECONDITION naming the tools that do not exist, and who wants them."""
    wanted = {name: agent.id for agent in agents for name in tools_of(agent)}
    missing = await catalog.missing_tools(wanted)
    if missing:
        which = ", ".join(f'"{name}" (of {wanted[name]})' for name in missing)
        raise MeshError.precondition(
            errors_pb2.ERROR_REASON_UNRESOLVED_TOOLS,
            f"these tools do not exist: {which}; add them, or take them away from the agents",
            tools=",".join(missing),
        )
