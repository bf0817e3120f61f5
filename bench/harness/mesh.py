"""A mesh of real processes, as `agentmesh up` starts it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from agentmesh.catalog.v1 import agent_pb2
from agentmesh.gateway.v1 import agent_service_pb2, agent_service_pb2_grpc
from agentmesh_cli.supervisor import Mesh, plan_mesh

from bench.harness.model_server import MODEL

_START_SECONDS = 120.0


@asynccontextmanager
async def running_mesh(
    environment: Mapping[str, str], data_dir: Path | None = None
) -> AsyncIterator[Mesh]:
    """Four services on free ports over an empty data directory, `environment` added to ours."""
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as temporary:
        folder = data_dir or Path(temporary)
        plan = plan_mesh(folder, {**os.environ, **environment}, ports=None, drain_seconds=1)
        async with Mesh(plan) as mesh:
            await mesh.wait_ready(_START_SECONDS)
            yield mesh


def model_environment(base_url: str) -> dict[str, str]:
    """Makes the services use the model server at `base_url`."""
    return {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "bench", "DEFAULT_MODEL": MODEL}


async def register_agents(
    channel: grpc.aio.Channel,
    instructions: Mapping[str, str],
    context: agent_pb2.ContextPolicy | None = None,
) -> None:
    """Registers agents without tools: name to system message. Models see all messages unless
    `context` says which."""
    agents: agent_service_pb2_grpc.AgentServiceAsyncStub = agent_service_pb2_grpc.AgentServiceStub(
        channel
    )
    for name, message in instructions.items():
        config = agent_service_pb2.AgentConfig(
            role="bench", system_message=message, context=context
        )
        await agents.RegisterAgent(agent_service_pb2.RegisterAgentRequest(name=name, config=config))
