"""Finds what would keep a team of its kind from running."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import Formatter

from agentmesh_agent_runtime.components import ComponentKind, Components
from agentmesh_agent_runtime.definitions.check_components import check_component
from agentmesh_agent_runtime.definitions.findings import Finding, ModelCheck
from agentmesh_agent_runtime.definitions.graphs import digraph
from agentmesh_agent_runtime.definitions.specs import (
    AgentSpec,
    GraphSpec,
    LlmSettings,
    SelectorSpec,
    TeamKind,
    TeamSpec,
)

_HOLDS_TEAMS = (TeamKind.ROUND_ROBIN, TeamKind.SELECTOR, TeamKind.COMPONENT)
_HOLDS_OWN_RUNS = (*_HOLDS_TEAMS, TeamKind.GRAPH, TeamKind.MAGENTIC_ONE)
_DEEPEST_RUNS = 8
_IN_PROMPT = frozenset({"roles", "participants", "history"})
_OPTIONS = {
    "selector": ((TeamKind.SELECTOR,), SelectorSpec()),
    "graph": ((TeamKind.GRAPH,), GraphSpec()),
    "orchestrator": ((TeamKind.MAGENTIC_ONE, TeamKind.COMPONENT), LlmSettings()),
}


def check_kind(
    team: TeamSpec,
    path: str,
    members: Sequence[str],
    model_problem: ModelCheck,
    components: Components,
) -> Iterator[Finding]:
    """What a team of its kind needs, and what only other kinds have."""
    for name, (kinds, nothing) in _OPTIONS.items():
        if team.kind not in kinds and getattr(team, name) != nothing:
            which = " and ".join(kinds)
            yield Finding(f"{path}.{name}", f"belongs to teams of kind {which}, not {team.kind}")
    if team.stages and team.kind is not TeamKind.ROUND_ROBIN:
        yield Finding(f"{path}.stages", f"belong to teams of kind {TeamKind.ROUND_ROBIN}")
    match team.kind:
        case TeamKind.SELECTOR:
            yield from _check_selector(team, path, members, model_problem, components)
        case TeamKind.GRAPH:
            yield from _check_graph(team.graph, f"{path}.graph", members)
        case TeamKind.MAGENTIC_ONE | TeamKind.COMPONENT:
            yield from _check_model(team.orchestrator, f"{path}.orchestrator", model_problem)
    if team.summarizer is not None:
        yield from _check_model(team.summarizer, f"{path}.summarizer", model_problem)
    yield from _check_handoffs(team, path, members)


def check_depth(team: TeamSpec, path: str) -> Iterator[Finding]:
    """The store starts no runs that are nested deeper."""
    depth = _runs_below(team)
    if depth > _DEEPEST_RUNS:
        which = f"teams with own_run are nested {depth} deep"
        yield Finding(path, f"{which}; {_DEEPEST_RUNS} are possible, let others do without")


def _runs_below(team: TeamSpec) -> int:
    teams = (member for member in team.participants if isinstance(member, TeamSpec))
    return max((inner.own_run + _runs_below(inner) for inner in teams), default=0)


def check_nested(outer: TeamSpec, inner: TeamSpec, path: str) -> Iterator[Finding]:
    """What a team within a team must not be."""
    kinds = _HOLDS_OWN_RUNS if inner.own_run else _HOLDS_TEAMS
    if outer.kind not in kinds:
        which = "teams with own_run" if inner.own_run else "teams"
        named = ", ".join(kinds)
        yield Finding(path, f"{which} may be members of teams of kind {named}, not {outer.kind}")
    if inner.own_run:
        return
    if inner.stages:
        yield Finding(
            f"{path}.stages", "a team within a team has no stages; set own_run or use a graph"
        )
    if inner.summarizer is not None:
        yield Finding(
            f"{path}.summarizer",
            "a team within a team has no summary; set own_run, or the outer team's summarizer",
        )


def _check_selector(
    team: TeamSpec,
    path: str,
    members: Sequence[str],
    model_problem: ModelCheck,
    components: Components,
) -> Iterator[Finding]:
    selector, where = team.selector, f"{path}.selector"
    if len(members) < 2:
        yield Finding(f"{path}.participants", "a selector team chooses between two or more")
    yield from _check_model(selector.llm_config, f"{where}.llm_config", model_problem)
    try:
        fields = {name for _, name, _, _ in Formatter().parse(selector.prompt) if name is not None}
    except ValueError as error:
        yield Finding(f"{where}.prompt", f"is no template: {error}; write {{{{ for a brace")
    else:
        for name in sorted(fields - _IN_PROMPT):
            known = ", ".join(f"{{{each}}}" for each in sorted(_IN_PROMPT))
            yield Finding(f"{where}.prompt", f"{{{name}}} stands for nothing; there are {known}")
    chooses = ComponentKind.CANDIDATE_FUNCTION
    for finding in check_component(components, chooses, selector.candidate_function, {}, where):
        yield Finding(f"{where}.candidate_function", finding.description)


def _check_graph(graph: GraphSpec, path: str, members: Sequence[str]) -> Iterator[Finding]:
    unknown = False
    for index, edge in enumerate(graph.edges):
        for field, name in (("from_agent", edge.source), ("to_agent", edge.target)):
            if name not in members:
                unknown = True
                yield Finding(f"{path}.edges[{index}].{field}", _no_member(name))
    for index, name in enumerate(graph.entry_points):
        if name not in members:
            unknown = True
            yield Finding(f"{path}.entry_points[{index}]", _no_member(name))
    if unknown or not members:
        return
    try:
        digraph(graph, members)
    except ValueError as error:
        yield Finding(f"{path}.edges", f"the graph cannot run: {error}")


def _check_handoffs(team: TeamSpec, path: str, members: Sequence[str]) -> Iterator[Finding]:
    """Others than members may be handed to where that ends or interrupts the run. In teams of other
    kinds nobody is offered to hand over."""
    if team.kind is not TeamKind.SWARM:
        return
    # Members that are named by their ids have handoffs that are not known here.
    if not any(isinstance(m, str) or getattr(m, "handoffs", ()) for m in team.participants):
        yield Finding(f"{path}.participants", "nobody in this swarm can hand over; set handoffs")
    for index, member in enumerate(team.participants):
        if not isinstance(member, AgentSpec):
            continue
        where = f"{path}.participants[{index}].agent.handoffs"
        for number, target in enumerate(member.handoffs):
            if target == member.id:
                yield Finding(f"{where}[{number}]", "an agent does not hand over to itself")
            elif target not in members and target not in team.termination.handoff_to:
                yield Finding(
                    f"{where}[{number}]",
                    f"{_no_member(target)}; to hand over to a person, name it in"
                    " termination.handoff_to too",
                )


def _check_model(settings: LlmSettings, path: str, model_problem: ModelCheck) -> Iterator[Finding]:
    problem = model_problem(settings)
    if problem is not None:
        yield Finding(f"{path}.{problem.path}", problem.description)


def _no_member(name: str) -> str:
    return f"{name!r} is no member of the team; add it to participants or mend the name"
