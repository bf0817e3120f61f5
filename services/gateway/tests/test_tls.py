"""Both edges over TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from agentmesh.gateway.v1.admin_service_pb2 import CheckHealthRequest
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh_gateway.settings import GatewaySettings
from meshkit.testkit import make_tls
from pydantic import ValidationError

from .conftest import Gateways


async def test_both_edges_speak_tls(gateways: Gateways, tmp_path: Path) -> None:
    files = make_tls(tmp_path / "tls")
    gateway = await gateways.start(allow_anonymous=True, http_tls=True, **files.settings())
    assert gateway.url.startswith("https://")
    trust = ssl.create_default_context(cafile=str(files.tls_ca_file))
    async with httpx.AsyncClient(base_url=gateway.url, verify=trust, trust_env=False) as http:
        assert (await http.get("/health")).json()["status"] == "unhealthy"
    credentials = grpc.ssl_channel_credentials(files.tls_ca_file.read_bytes())
    async with grpc.aio.secure_channel(gateway.host.grpc_address, credentials) as channel:
        stub: Any = AdminServiceStub(channel)
        assert (await stub.CheckHealth(CheckHealthRequest())).status == "unhealthy"


def test_tls_for_rest_needs_a_certificate() -> None:
    with pytest.raises(ValidationError, match="AGENTMESH_HTTP_TLS needs"):
        GatewaySettings(http_tls=True)
