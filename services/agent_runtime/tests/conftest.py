"""What really serves: a model server, and a mesh whose models are there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.agent_runtime.tests.component_package import install
from services.agent_runtime.tests.extension_world import NAMES, SOURCE
from services.agent_runtime.tests.real_mesh import RealMesh, StartMesh
from services.agent_runtime.tests.wires import SERVERS, Wire
from tests.support.example_package import install_example
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


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, built once."""
    return install_example(tmp_path_factory.mktemp("example"))


@pytest.fixture
def packages(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example package, and one that does everything wrong."""
    monkeypatch.syspath_prepend(str(example))
    groups = ("agents", "teams", "terminations", "candidate_functions")
    points = {f"agentmesh.{group}": {name: name for name in NAMES} for group in groups}
    install(tmp_path, monkeypatch, SOURCE, points, name="odd")
