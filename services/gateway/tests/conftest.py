"""A gateway in this process, in front of whatever a test puts behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest_asyncio
from agentmesh_gateway.server import build
from agentmesh_gateway.settings import GatewaySettings
from meshkit.server import ServiceHost
from meshkit.testkit import mesh_hosts  # noqa: F401  a fixture

from .front import front, own_front, own_store, shared_store  # noqa: F401  fixtures
from .oidc_issuer import issuer  # noqa: F401  a fixture

NOWHERE = "127.0.0.1:1"


@dataclass
class Gateway:
    """A running gateway, with a client for each edge."""

    host: ServiceHost
    http: httpx.AsyncClient
    channel: grpc.aio.Channel

    @property
    def url(self) -> str:
        """Of its REST edge."""
        return self.host.http_address or ""


class Gateways:
    """Starts gateways; closes them all at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Gateway] = []

    async def start(self, **settings: Any) -> Gateway:
        """A gateway on free ports whose other services are nowhere unless `settings` says where."""
        defaults: dict[str, Any] = {
            "grpc_port": 0,
            "app_port": 0,
            "data_dir": self._folder / "gateway",
            "drain_seconds": 2.0,
            "store_address": NOWHERE,
            "runtime_address": NOWHERE,
            "tool_runner_address": NOWHERE,
            # Tests are quicker than people; those of the limits set them.
            "requests_per_second": 0,
            "requests_per_second_per_principal": 0,
            "anonymous_requests_per_second": 0,
            "refused_credentials_per_minute": 0,
        }
        host = build(GatewaySettings(**(defaults | settings)))
        await host.start()
        gateway = Gateway(
            host,
            httpx.AsyncClient(base_url=host.http_address or "", timeout=30, trust_env=False),
            grpc.aio.insecure_channel(host.grpc_address),
        )
        self._running.append(gateway)
        return gateway

    async def close(self) -> None:
        """Stops them all."""
        for gateway in self._running:
            await gateway.http.aclose()
            await gateway.channel.close()
            await gateway.host.stop()


@pytest_asyncio.fixture
async def gateways(tmp_path: Path) -> AsyncIterator[Gateways]:
    """Gateways that live as long as the test."""
    factory = Gateways(tmp_path)
    yield factory
    await factory.close()
