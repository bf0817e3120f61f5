"""How many connections each edge may hold, in one process with one number of open files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshkit.open_files import connections_that_fit

if TYPE_CHECKING:
    from agentmesh_gateway.settings import GatewaySettings


def grpc_connections(settings: GatewaySettings) -> int:
    """Of the gRPC edge; 0 is no limit."""
    return connections_that_fit(settings.max_connections, settings.http_max_connections)[0]


def http_connections(settings: GatewaySettings) -> int:
    """Of the HTTP edge; 0 is no limit."""
    return connections_that_fit(settings.max_connections, settings.http_max_connections)[1]
