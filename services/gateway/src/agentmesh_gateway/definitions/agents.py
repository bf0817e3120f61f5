"""Agents as the catalog keeps them, as users configure them, and as users see them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from agentmesh.catalog.v1.agent_pb2 import AgentDefinition
from agentmesh.conversation_store.v1.catalog_service_pb2 import Document
from agentmesh.gateway.v1.agent_service_pb2 import Agent, AgentConfig
from google.protobuf.message import Message

from agentmesh_gateway.definitions.pinning import tools_of
from agentmesh_gateway.field_masks import Path, copy_field, take_over

# The contract has these under the same names in all three messages.
CONFIGURED = tuple(field.name for field in AgentConfig.DESCRIPTOR.fields)


def definition_of(agent_id: str, config: AgentConfig) -> AgentDefinition:
    """The definition that a user's configuration makes of an agent."""
    definition = AgentDefinition(id=agent_id)
    _configure(definition, config)
    return definition


def config_of(definition: AgentDefinition) -> AgentConfig:
    """The configuration that makes this definition."""
    config = AgentConfig()
    _copy(definition, config)
    return config


def revised(
    definition: AgentDefinition, patch: AgentConfig, paths: Iterable[Path]
) -> AgentDefinition:
    """The definition with these fields as they are in `patch`."""
    config = config_of(definition)
    take_over(config, patch, paths)
    changed = AgentDefinition()
    changed.CopyFrom(definition)
    _configure(changed, config)
    return changed


def copied(definition: AgentDefinition, agent_id: str) -> AgentDefinition:
    """The definition under another id; a name that only said the old one says the new one."""
    copy = AgentDefinition()
    copy.CopyFrom(definition)
    copy.id = agent_id
    if definition.name == definition.id:
        copy.name = agent_id
    return copy


def shown(document: Document, definition: AgentDefinition, missing: Collection[str]) -> Agent:
    """The agent of a document. `missing` has the tools that do not exist."""
    agent = Agent(
        id=definition.id,
        version=document.version,
        built_in=document.system,
        unresolved_tools=[name for name in tools_of(definition) if name in missing],
        created_at=document.created_at,
        etag=document.etag,
    )
    _copy(definition, agent)
    agent.name = definition.name or definition.id
    return agent


def _configure(definition: AgentDefinition, config: AgentConfig) -> None:
    _copy(config, definition)
    definition.name = config.name or definition.id


def _copy(source: Message, target: Message) -> None:
    for name in CONFIGURED:
        copy_field(source, target, name)
