"""The services of the public contract."""

from __future__ import annotations

from agentmesh.gateway.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    approval_service_pb2,
    artifact_service_pb2,
    blob_service_pb2,
    conversation_service_pb2,
    tool_service_pb2,
    usage_service_pb2,
    workflow_service_pb2,
)
from google.protobuf.descriptor import ServiceDescriptor

PUBLIC_SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service
    for module in (
        conversation_service_pb2,
        approval_service_pb2,
        agent_service_pb2,
        workflow_service_pb2,
        tool_service_pb2,
        artifact_service_pb2,
        blob_service_pb2,
        usage_service_pb2,
        admin_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
"""Every service of `agentmesh.gateway.v1`."""
