"""The gateway in front of a real store, with definitions in it and a runtime that checks them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from meshkit.testkit import HostFactory, MeshProcess

from .mesh_behind import publish_definitions, start_runtime, store_process

if TYPE_CHECKING:
    from .conftest import Gateway, Gateways  # which imports these fixtures

START = "/conversations/start"
QUICK_START = {
    "agents": ["project_manager", "developer", "reviewer"],
    "task": "Create a Python web application with user authentication",
    "workflow": "software_development",
}


@dataclass
class Front:
    """A gateway and the store behind it."""

    gateway: Gateway
    store: MeshProcess

    @property
    def http(self) -> httpx.AsyncClient:
        return self.gateway.http

    @property
    def conversations(self) -> Any:
        return ConversationServiceStub(self.gateway.channel)

    async def started(self, **body: Any) -> dict[str, Any]:
        """A conversation, started over REST."""
        response = await self.http.post(START, json=QUICK_START | body)
        assert response.status_code == 200, response.text
        content: dict[str, Any] = response.json()
        return content


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MeshProcess]:
    """For tests that mind neither other conversations nor make keys."""
    async with store_process(tmp_path_factory.mktemp("store")) as store:
        yield store


async def stand_before(
    store: MeshProcess, gateways: Gateways, hosts: HostFactory, **settings: Any
) -> Front:
    await publish_definitions(hosts, store)
    runtime = await start_runtime(hosts)
    gateway = await gateways.start(
        store_address=store.grpc_address,
        runtime_address=runtime.grpc_address,
        **({"key_cache_seconds": 0.05} | settings),
    )
    return Front(gateway, store)


@pytest_asyncio.fixture
async def front(shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory) -> Front:
    return await stand_before(shared_store, gateways, mesh_hosts)


@pytest_asyncio.fixture
async def own_store(tmp_path: Path) -> AsyncIterator[MeshProcess]:
    """A store process of the test's own."""
    async with store_process(tmp_path / "store") as store:
        yield store


@pytest_asyncio.fixture
async def own_front(gateways: Gateways, mesh_hosts: HostFactory, own_store: MeshProcess) -> Front:
    return await stand_before(own_store, gateways, mesh_hosts)


def violations(response: httpx.Response) -> dict[str, str]:
    """Fields that a response complains about, with what it says."""
    assert response.status_code == 400, response.text
    return {
        violation["field"]: violation["description"]
        for detail in response.json()["error"]["details"]
        for violation in detail.get("field_violations", ())
    }


def reason(response: httpx.Response, status: int | None = None) -> str:
    """Why a request was refused, with that status if it is given."""
    assert response.is_error, response.text
    assert status in (None, response.status_code), response.text
    return str(response.json()["error"]["details"][0]["reason"])
