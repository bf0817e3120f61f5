"""Two edges of one process share its open files."""

from __future__ import annotations

import resource

import pytest
from agentmesh_gateway.limits.edges import grpc_connections, http_connections
from agentmesh_gateway.limits.http2 import http2_options
from agentmesh_gateway.settings import GatewaySettings

from services.gateway.tests.conftest import Gateways
from services.gateway.tests.test_http_limits import Wire, parse


def test_each_edge_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    settings = GatewaySettings(max_connections=3000, http_max_connections=1000)
    assert (grpc_connections(settings), http_connections(settings)) == (576, 192)
    assert ("grpc.max_allowed_incoming_connections", 576) in http2_options(settings)


async def test_the_http_edge_takes_no_more_than_its_share(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _: (256, 256))
        gateway = await gateways.start()
    wires = [await Wire.to(gateway) for _ in range(16)]
    refused = await Wire.to(gateway)
    assert parse(await refused.rest())[0] == 503
    for wire in (*wires, refused):
        wire.close()
