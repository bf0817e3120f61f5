"""Puts the shipped definitions into the catalog, however long the store takes to come up."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

import grpc
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2

from agentmesh_agent_runtime.adapters.definitions import (
    agent_to_proto,
    profile_to_proto,
    team_to_proto,
)
from agentmesh_agent_runtime.adapters.workflows import workflow_to_proto
from agentmesh_agent_runtime.definitions.shipped import Definitions
from agentmesh_agent_runtime.definitions.specs import ProfileSpec

if TYPE_CHECKING:
    # The generated stubs for asyncio exist for type checkers only.
    from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

log = logging.getLogger(__name__)

LONGEST_WAIT = 2.0
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)


async def publish(
    stub: CatalogServiceAsyncStub, definitions: Definitions, profiles: Iterable[ProfileSpec] = ()
) -> None:
    """Publishes once; waits for the store, and gives up only if it refuses the documents."""
    request = catalog_pb2.PublishDocumentsRequest(
        documents=[
            catalog_pb2.Document(
                kind=catalog_pb2.DOCUMENT_KIND_AGENT, name=agent.id, agent=agent_to_proto(agent)
            )
            for agent in definitions.agents
        ]
        + [
            catalog_pb2.Document(
                kind=catalog_pb2.DOCUMENT_KIND_TEAM, name=team.id, team=team_to_proto(team)
            )
            for team in definitions.teams
        ]
        + [
            catalog_pb2.Document(
                kind=catalog_pb2.DOCUMENT_KIND_WORKFLOW,
                name=workflow.id,
                workflow=workflow_to_proto(workflow),
            )
            for workflow in definitions.workflows
        ]
        + [
            catalog_pb2.Document(
                kind=catalog_pb2.DOCUMENT_KIND_MODEL_PROFILE,
                name=profile.id,
                model_profile=profile_to_proto(profile),
            )
            for profile in profiles
        ]
    )
    wait = 0.1
    while True:
        try:
            await stub.PublishDocuments(request)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PASSING:
                log.exception("the store refuses the definitions")
                return
            log.info("definitions are not published yet: %s", error.code().name)
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311  jitter
            wait = min(LONGEST_WAIT, 2 * wait)
        else:
            log.info("%d definitions published", len(request.documents))
            return
