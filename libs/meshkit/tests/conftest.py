"""Real servers for every test: a host with three contracts whose methods the test sets."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc, turn_service_pb2_grpc
from agentmesh.gateway.v1 import agent_service_pb2_grpc
from agentmesh.tool_runner.v1 import tool_runner_service_pb2_grpc
from meshkit.channels import MeshChannels
from meshkit.identity import InternalIdentity, Principal
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, mesh_hosts

__all__ = ["mesh_hosts"]

STORE = "agentmesh.conversation_store.v1"


def servicer(base: type, behaviors: dict[str, Callable[..., Any]]) -> Any:
    """An instance of a generated servicer with some methods given; the rest stay unimplemented."""
    methods = {name: staticmethod(behavior) for name, behavior in behaviors.items()}
    return type(base.__name__, (base,), methods)()


@dataclass
class Mesh:
    """Starts hosts that serve what a test gives them, and makes stubs for them."""

    hosts: HostFactory
    stubs: dict[str, Any] = field(default_factory=dict)

    async def serve(
        self,
        *,
        public_authenticator: Any = None,
        name: str = "conversation_store",
        settings: dict[str, Any] | None = None,
        vouches: Callable[[Any], bool] | None = None,
        **behaviors: Callable[..., Any],
    ) -> ServiceHost:
        """A started host; `behaviors` are methods of any of the contracts by name."""
        registrations: list[Any] = [
            (
                catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server,
                servicer(catalog_service_pb2_grpc.CatalogServiceServicer, behaviors),
                f"{STORE}.CatalogService",
            ),
            (
                turn_service_pb2_grpc.add_TurnServiceServicer_to_server,
                servicer(turn_service_pb2_grpc.TurnServiceServicer, behaviors),
                f"{STORE}.TurnService",
            ),
            (
                tool_runner_service_pb2_grpc.add_ToolRunnerServiceServicer_to_server,
                servicer(tool_runner_service_pb2_grpc.ToolRunnerServiceServicer, behaviors),
                "agentmesh.tool_runner.v1.ToolRunnerService",
            ),
        ]
        if public_authenticator is not None:
            registrations.append(
                (
                    agent_service_pb2_grpc.add_AgentServiceServicer_to_server,
                    servicer(agent_service_pb2_grpc.AgentServiceServicer, behaviors),
                    "agentmesh.gateway.v1.AgentService",
                )
            )
        host = self.hosts.build(
            name,
            registrations,
            public_authenticator=public_authenticator,
            **(settings or {}),
        )
        host.vouches_for_traces = vouches
        await host.start()
        return host

    def channels(self, **settings: Any) -> MeshChannels:
        return self.hosts.channels(**settings)

    def catalog(self, host: ServiceHost, **settings: Any) -> Any:
        channel = self.channels(**settings).channel(host.grpc_address, "conversation_store")
        return catalog_service_pb2_grpc.CatalogServiceStub(channel)

    def turns(self, host: ServiceHost) -> Any:
        channel = self.channels().channel(host.grpc_address, "conversation_store")
        return turn_service_pb2_grpc.TurnServiceStub(channel)

    def tools(self, host: ServiceHost, **settings: Any) -> Any:
        channel = self.channels(**settings).channel(host.grpc_address, "tool_runner")
        return tool_runner_service_pb2_grpc.ToolRunnerServiceStub(channel)


@pytest.fixture
def mesh(mesh_hosts: HostFactory) -> Mesh:
    return Mesh(mesh_hosts)


@pytest.fixture
def operator() -> Principal:
    return Principal(subject="key_1", tenant="acme", role=2)


@pytest.fixture
def outsider(tmp_path: Any) -> InternalIdentity:
    """Tokens under another secret than the hosts'."""
    from meshkit.testkit import test_settings

    return InternalIdentity("intruder", test_settings(tmp_path, internal_secret="x" * 32))


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    gc.collect()
