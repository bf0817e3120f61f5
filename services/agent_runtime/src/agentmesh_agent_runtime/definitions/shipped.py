"""The definitions that this runtime brings: those of its package, then those of the operator."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from agentmesh_agent_runtime.definitions.specs import AgentSpec, TeamSpec
from agentmesh_agent_runtime.definitions.yaml_source import load_agents, load_teams


@dataclass(frozen=True)
class Definitions:
    """Agents and teams by id."""

    agents: tuple[AgentSpec, ...]
    teams: tuple[TeamSpec, ...]


def load_definitions(agents_file: Path | None = None) -> Definitions:
    """Reads the shipped agents and teams and adds those of `agents_file`.

    An agent of the file replaces a shipped one of the same id. Raises DefinitionError.
    """
    with as_file(files(__package__)) as folder:
        agents = {agent.id: agent for agent in load_agents(folder / "agents.yaml")}
        teams = load_teams(folder / "teams.yaml")
    if agents_file is not None:
        agents |= {agent.id: agent for agent in load_agents(agents_file)}
    return Definitions(agents=tuple(agents.values()), teams=tuple(teams))
