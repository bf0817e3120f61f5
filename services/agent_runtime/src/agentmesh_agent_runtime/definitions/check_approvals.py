"""Finds what is wrong with approval policies."""

from __future__ import annotations

from collections.abc import Iterator

from agentmesh_agent_runtime.definitions.approval_policies import policy_problems
from agentmesh_agent_runtime.definitions.findings import Finding
from agentmesh_agent_runtime.definitions.specs import AgentSpec, TeamSpec


def check_agent_approvals(agent: AgentSpec, path: str) -> Iterator[Finding]:
    """A policy for a tool that the agent does not have guards nothing."""
    for where, problem in policy_problems(agent.approvals, agent.tools, ()):
        yield Finding(f"{path}.approvals{where}", problem)


def check_team_approvals(team: TeamSpec, path: str, *, names: bool) -> Iterator[Finding]:
    """Without `names` a policy may be about members and tools that are not there: those of a team
    of which a conversation takes a part."""
    tools, agents = None, None
    if names and team.is_resolved():
        located = dict(team.located())
        tools = [tool for agent in located.values() for tool in agent.tools]
        agents = [*located, *(agent.id for agent in located.values())]
    for where, problem in policy_problems(team.approvals, tools, agents):
        yield Finding(f"{path}.approvals{where}", problem)
