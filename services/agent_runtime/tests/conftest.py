"""What really serves: a model server, and a mesh whose models are there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.agent_runtime.tests.real_mesh import RealMesh, StartMesh
from services.agent_runtime.tests.wires import SERVERS, Wire
from tests.support.model_server import ModelServer


@pytest_asyncio.fixture
async def model_server() -> AsyncIterator[ModelServer]:
    """A running model server."""
    async with ModelServer() as server:
        yield server


@pytest_asyncio.fixture(params=list(SERVERS))
async def wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
    """Each provider in turn."""
    async with SERVERS[request.param]() as server:
        yield Wire(request.param, server)


@pytest_asyncio.fixture
async def start_mesh(tmp_path: Path, model_server: ModelServer) -> AsyncIterator[StartMesh]:
    """Starts meshes whose models are at the model server; `environment` goes to the runtime."""
    meshes: list[RealMesh] = []

    async def start(*, runtimes: int = 1, tools: bool = False, **environment: str) -> RealMesh:
        model = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": model_server.base_url}
        mesh = RealMesh(tmp_path, **(model | environment))
        meshes.append(mesh)
        await mesh.start(runtimes=runtimes, tools=tools)
        return mesh

    yield start
    for mesh in meshes:
        await mesh.close()
