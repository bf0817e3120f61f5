"""The Python client of agentmesh.

async with AgentMesh("localhost:50051") as mesh:
    conversation = await mesh.run("Write a haiku about leases", agents=["developer", "reviewer"])
    print(conversation.summary)
"""

from agentmesh_client.agent_settings import AgentSettings
from agentmesh_client.attachments import Attachment
from agentmesh_client.chat import Chat
from agentmesh_client.client import AgentMesh
from agentmesh_client.errors import (
    AgentMeshError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    Violation,
)
from agentmesh_client.limits import Budget
from agentmesh_client.models import (
    Agent,
    ApiKey,
    Approval,
    Conversation,
    Delta,
    Event,
    Grant,
    Health,
    Message,
)
from agentmesh_client.subscription import Subscription, TenantSubscription
from agentmesh_client.transport import Tls

__all__ = [
    "Agent",
    "AgentMesh",
    "AgentMeshError",
    "AgentSettings",
    "ApiKey",
    "Approval",
    "Attachment",
    "Budget",
    "Chat",
    "Conversation",
    "Delta",
    "Event",
    "FailedPreconditionError",
    "Grant",
    "Health",
    "InvalidArgumentError",
    "Message",
    "NotFoundError",
    "PermissionDeniedError",
    "Subscription",
    "TenantSubscription",
    "Tls",
    "UnauthenticatedError",
    "UnavailableError",
    "Violation",
]
