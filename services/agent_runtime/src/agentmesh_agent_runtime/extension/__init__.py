"""What packages import that bring agents, teams, termination conditions and model clients.

A package names its factories as entry points of the groups `agentmesh.agents`, `agentmesh.teams`,
`agentmesh.terminations`, `agentmesh.model_clients` and `agentmesh.candidate_functions`. See
docs/agents.md, and examples/ for a package with one of each.
"""

from agentmesh_agent_runtime.components import ComponentError
from agentmesh_agent_runtime.extension.assistant import MeshAssistant
from agentmesh_agent_runtime.extension.group_chat import MeshGroupChat
from agentmesh_agent_runtime.extension.setups import (
    AgentFactory,
    AgentSetup,
    CandidateFunction,
    ComponentConfig,
    CurrentTurn,
    Heard,
    ModelClientFactory,
    ModelClientSetup,
    Once,
    TeamFactory,
    TeamSetup,
    TerminationFactory,
    TerminationSetup,
    TurnInfo,
    takes,
)
from agentmesh_agent_runtime.turns.failures import (
    ModelCredentialsRefused,
    ModelFailed,
    ModelRefused,
)

__all__ = [
    "AgentFactory",
    "AgentSetup",
    "CandidateFunction",
    "ComponentConfig",
    "ComponentError",
    "CurrentTurn",
    "Heard",
    "MeshAssistant",
    "MeshGroupChat",
    "ModelClientFactory",
    "ModelClientSetup",
    "ModelCredentialsRefused",
    "ModelFailed",
    "ModelRefused",
    "Once",
    "TeamFactory",
    "TeamSetup",
    "TerminationFactory",
    "TerminationSetup",
    "TurnInfo",
    "takes",
]
