"""Finds what would keep components of definitions from being used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentmesh_agent_runtime.components import (
    ComponentError,
    ComponentKind,
    Components,
    ConfigurationError,
)
from agentmesh_agent_runtime.definitions.findings import Finding
from agentmesh_agent_runtime.definitions.specs import (
    AgentSpec,
    TeamKind,
    TeamSpec,
    TerminationSpec,
)

Wanted = tuple[ComponentKind, str]


def check_component(
    components: Components, kind: ComponentKind, name: str, config: Mapping[str, Any], path: str
) -> Iterator[Finding]:
    """Of the definition at `path`, which names the component `name` or none. It is imported."""
    if not name:
        if config:
            yield Finding(f"{path}.component_config", "belongs to a component; name it or remove")
        return
    try:
        components.configure(kind, name, config)
    except ConfigurationError as error:
        for location, description in error.findings:
            yield Finding(f"{path}.component_config{steps(location)}", description)
    except ComponentError as error:
        yield Finding(f"{path}.component", str(error))


def check_team_component(team: TeamSpec, path: str, components: Components) -> Iterator[Finding]:
    """What a team of kind `component` names, and no other."""
    if team.kind is TeamKind.COMPONENT:
        if not team.component:
            yield Finding(f"{path}.component", "is missing; name the component that decides")
        kind = ComponentKind.TEAM
        yield from check_component(components, kind, team.component, team.component_config, path)
        return
    for field in ("component", "component_config"):
        if getattr(team, field):
            yield Finding(
                f"{path}.{field}", f"belongs to teams of kind {TeamKind.COMPONENT}, not {team.kind}"
            )


def check_conditions(
    termination: TerminationSpec, path: str, components: Components
) -> Iterator[Finding]:
    """Of the conditions at `path`, and of those that hold together there."""
    kind, config = ComponentKind.TERMINATION, termination.component_config
    yield from check_component(components, kind, termination.component, config, path)
    for index, part in enumerate(termination.all_of):
        yield from check_conditions(part, f"{path}.all_of[{index}]", components)


def components_of(definition: AgentSpec | TeamSpec) -> Iterator[Wanted]:
    """Every component that a definition names, those of its members included."""
    if isinstance(definition, AgentSpec):
        if definition.component:
            yield ComponentKind.AGENT, definition.component
        return
    if definition.component:
        yield ComponentKind.TEAM, definition.component
    if definition.selector.candidate_function:
        yield ComponentKind.CANDIDATE_FUNCTION, definition.selector.candidate_function
    for condition in definition.termination.components():
        yield ComponentKind.TERMINATION, condition.component
    for member in definition.participants:
        if not isinstance(member, str):
            yield from components_of(member)


def steps(location: tuple[int | str, ...]) -> str:
    """A place within a document, as the end of a path."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
