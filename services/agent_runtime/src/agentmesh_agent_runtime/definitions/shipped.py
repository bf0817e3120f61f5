"""The definitions that this runtime brings: those of its package, then those of the operator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from agentmesh_agent_runtime.components import ComponentKind, Components
from agentmesh_agent_runtime.definitions.check_components import (
    check_component,
    check_conditions,
    check_team_component,
)
from agentmesh_agent_runtime.definitions.findings import Finding
from agentmesh_agent_runtime.definitions.specs import AgentSpec, TeamSpec
from agentmesh_agent_runtime.definitions.workflow_specs import WorkflowSpec, load_workflows
from agentmesh_agent_runtime.definitions.yaml_source import (
    DefinitionError,
    load_agents_and_teams,
    refusal,
)


@dataclass(frozen=True)
class Definitions:
    """Agents, teams and workflows by id. Teams within teams are written in place."""

    agents: tuple[AgentSpec, ...]
    teams: tuple[TeamSpec, ...]
    workflows: tuple[WorkflowSpec, ...] = ()


def load_definitions(agents_file: Path | None = None) -> Definitions:
    """Reads what is shipped and adds the agents and teams of `agents_file`.

    What the file defines replaces what is shipped under the same id. Raises DefinitionError.
    """
    sources: list[Path] = [] if agents_file is None else [agents_file]
    agents: dict[str, AgentSpec] = {}
    teams: dict[str, TeamSpec] = {}
    with as_file(files(__package__)) as folder:
        for source in (folder / "agents.yaml", folder / "teams.yaml", *sources):
            more_agents, more_teams = load_agents_and_teams(source)
            agents |= {agent.id: agent for agent in more_agents}
            teams |= {team.id: team for team in more_teams}
        workflows = load_workflows(folder / "workflows.yaml")
    for name in agents.keys() & teams.keys():
        raise DefinitionError(f"{agents_file}: {name}: is an agent and a team; rename one of them")
    placed = [_with_teams_in_place(team, teams, ()) for team in teams.values()]
    return Definitions(tuple(agents.values()), tuple(placed), tuple(workflows))


def check_components(
    definitions: Definitions, agents_file: Path | None, components: Components
) -> None:
    """Raises DefinitionError if the operator's file names components that cannot be used."""
    if agents_file is None:
        return
    for agent in definitions.agents:
        kind = ComponentKind.AGENT
        for finding in check_component(
            components, kind, agent.component, agent.component_config, agent.id
        ):
            raise refused(agents_file, finding)
    for team in definitions.teams:
        for finding in (
            *check_team_component(team, team.id, components),
            *check_conditions(team.termination, f"{team.id}.termination", components),
        ):
            raise refused(agents_file, finding)


def refused(source: Path, finding: Finding) -> DefinitionError:
    """The error of what was found in a file, whose definitions begin with their ids.

    Paths of findings have brackets where places of a file have numbers.
    """
    location = tuple(
        int(step) if step.isdigit() else step
        for step in re.split(r"[.\[\]]+", finding.path)
        if step
    )
    return refusal(source, location, finding.description)


def _with_teams_in_place(
    team: TeamSpec, teams: Mapping[str, TeamSpec], around: tuple[str, ...]
) -> TeamSpec:
    if team.id in around:
        path = " > ".join((*around, team.id))
        raise DefinitionError(f"the team {team.id!r} is within itself: {path}; take it out")
    inner = (*around, team.id)
    members = tuple(
        _with_teams_in_place(teams[member], teams, inner)
        if isinstance(member, str) and member in teams
        else member
        for member in team.participants
    )
    return team.model_copy(update={"participants": members})
