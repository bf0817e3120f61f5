"""Both edges over TLS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
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


async def test_a_renewed_certificate_is_shown_by_rest_without_a_restart(
    gateways: Gateways, tmp_path: Path
) -> None:
    authority = trustme.CA()
    files, renewed = (make_tls(tmp_path / name, authority) for name in ("tls", "next"))
    gateway = await gateways.start(allow_anonymous=True, http_tls=True, **files.settings())
    trust = ssl.create_default_context(cafile=str(files.tls_ca_file))

    async def shown() -> bytes:
        host, port = gateway.url.removeprefix("https://").rsplit(":", 1)
        _, writer = await asyncio.open_connection(host, int(port), ssl=trust)
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return certificate

    first = await shown()
    renewed.tls_cert_file.replace(files.tls_cert_file)
    assert await shown() == first
    renewed.tls_key_file.replace(files.tls_key_file)
    assert await shown() != first


def test_tls_for_rest_needs_a_certificate() -> None:
    with pytest.raises(ValidationError, match="AGENTMESH_HTTP_TLS needs"):
        GatewaySettings(http_tls=True)
