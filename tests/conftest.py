"""Meshes of real processes. Starting four processes takes seconds, so tests that leave a mesh as
they found it share one; a test that kills something heals what it killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from meshkit.testkit import free_port

from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer
from tests.support.wire_tap import WireTap

MeshFactory = Callable[..., Awaitable[Mesh]]


def started(mesh: Mesh) -> Mesh:
    """Starts the processes from outside any test's event loop."""
    asyncio.run(mesh.start())
    return mesh


@pytest.fixture(scope="session")
def scripted_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    mesh = started(Mesh(tmp_path_factory.mktemp("mesh")))
    yield mesh
    mesh.stop()


@pytest_asyncio.fixture
async def mesh(scripted_mesh: Mesh) -> AsyncIterator[Mesh]:
    """A mesh whose agents the scripted model plays; shared."""
    await scripted_mesh.heal()
    yield scripted_mesh
    await scripted_mesh.heal()


@pytest_asyncio.fixture
async def meshes(tmp_path: Path) -> AsyncIterator[MeshFactory]:
    """Starts meshes of the test's own; the arguments are environments by service."""
    owned: list[Mesh] = []

    async def start(**environment: dict[str, str]) -> Mesh:
        mesh = Mesh(tmp_path / f"mesh{len(owned)}", environment)
        owned.append(mesh)
        await mesh.start()
        return mesh

    yield start
    for mesh in owned:
        await mesh.heal()
        mesh.stop()


@pytest_asyncio.fixture
async def own_mesh(meshes: MeshFactory) -> Mesh:
    """A mesh of the test's own, as it comes."""
    return await meshes()


@pytest.fixture(scope="session")
def shared_keyed_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    mesh = Mesh(tmp_path_factory.mktemp("keyed"))

    async def start() -> None:
        await mesh.start()
        await mesh.create_key("acme", "acme", "operator")
        await mesh.create_key("rival", "rival", "operator")
        await mesh.create_key("viewer", "acme", "viewer")
        await mesh.create_key("user", "acme", "user")

    asyncio.run(start())
    yield mesh
    mesh.stop()


@pytest_asyncio.fixture
async def keyed_mesh(shared_keyed_mesh: Mesh) -> AsyncIterator[Mesh]:
    """A mesh with keys "acme", "viewer" and "user" of one tenant and "rival" of another; shared."""
    await shared_keyed_mesh.heal()
    yield shared_keyed_mesh
    await shared_keyed_mesh.heal()


@dataclass(frozen=True)
class Wiring:
    """Ports that outlive the event loops of single tests."""

    mesh: Mesh
    model_port: int
    tap_port: int


@pytest.fixture(scope="session")
def wiring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wiring]:
    """A mesh that asks a model server and reaches its store through a tap, both of the test."""
    model_port, tap_port = free_port(), free_port()
    model = {
        "OPENAI_API_KEY": "sk-for-tests",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
    }
    mesh = Mesh(
        tmp_path_factory.mktemp("tapped"),
        {"agent_runtime": model},
        store_address=f"127.0.0.1:{tap_port}",
    )

    async def start() -> None:
        # The workers publish what they ship through the tap, so one must be there.
        tap = WireTap(mesh_store_address, tap_port)
        async with tap:
            await mesh.start_workers()

    async def start_store() -> str:
        await mesh.start_store()
        return mesh.address("conversation_store")

    mesh_store_address = asyncio.run(start_store())
    asyncio.run(start())
    yield Wiring(mesh, model_port, tap_port)
    mesh.stop()


@pytest_asyncio.fixture
async def model_server(wiring: Wiring) -> AsyncIterator[ModelServer]:
    """The model server that the agents of `model_mesh` ask."""
    async with ModelServer(port=wiring.model_port) as server:
        yield server


@pytest_asyncio.fixture
async def store_tap(wiring: Wiring) -> AsyncIterator[WireTap]:
    """What stands between the workers of `model_mesh` and their store."""
    async with WireTap(wiring.mesh.address("conversation_store"), wiring.tap_port) as tap:
        yield tap


@pytest_asyncio.fixture
async def model_mesh(
    wiring: Wiring, model_server: ModelServer, store_tap: WireTap
) -> AsyncIterator[Mesh]:
    """A mesh whose agents ask `model_server` and whose workers reach the store by `store_tap`."""
    await wiring.mesh.heal()
    # What workers of an earlier test still had to say comes through the new tap first.
    await asyncio.sleep(1)
    store_tap.forget()
    yield wiring.mesh
    await wiring.mesh.heal()
