"""Graphs of members as AutoGen's, and what keeps one from running."""

from __future__ import annotations

from collections.abc import Sequence

from autogen_agentchat.teams import DiGraph
from autogen_agentchat.teams._group_chat._graph._digraph_group_chat import (
    _DIGRAPH_STOP_MESSAGE as GRAPH_IS_DONE,
)
from autogen_agentchat.teams._group_chat._graph._digraph_group_chat import DiGraphEdge, DiGraphNode

from agentmesh_agent_runtime.definitions.specs import GraphSpec

__all__ = ["GRAPH_IS_DONE", "digraph"]


def digraph(graph: GraphSpec, members: Sequence[str]) -> DiGraph:
    """The graph over these members. Raises ValueError if it cannot run."""
    nodes = {name: DiGraphNode(name=name, edges=[]) for name in members}
    for edge in graph.edges:
        nodes[edge.source].edges.append(
            DiGraphEdge(
                target=edge.target,
                condition=edge.condition or None,
                activation_group=edge.activation_group,
                activation_condition=edge.activation_condition,
            )
        )
    built = DiGraph(
        nodes=nodes, default_start_node=graph.entry_points[0] if graph.entry_points else None
    )
    built.graph_validate()
    return built
