"""What one HTTP/2 connection may do at the gRPC edge.

The transport enforces it: a stream too many waits for another to end; a head that is too long is
refused with RESOURCE_EXHAUSTED; who pings too often gets GOAWAY with "too_many_pings"; an old
connection gets GOAWAY, its calls have the grace to end, and clients connect again, to any replica.
One that has been without calls for long gets it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshkit.transport import Options, connection_limit

from agentmesh_gateway.limits.edges import grpc_connections

if TYPE_CHECKING:
    from agentmesh_gateway.settings import GatewaySettings

_PING_STRIKES = 2


def http2_options(settings: GatewaySettings) -> Options:
    """Options of the gRPC server, beside those of every service."""
    options: Options = [
        *connection_limit(grpc_connections(settings)),
        ("grpc.max_concurrent_streams", settings.grpc_max_streams_per_connection),
        ("grpc.max_metadata_size", settings.grpc_max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.grpc_max_header_bytes),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            round(settings.grpc_min_ping_seconds * 1000),
        ),
        ("grpc.http2.max_ping_strikes", _PING_STRIKES),
    ]
    if settings.grpc_max_connection_idle_seconds:
        idle = settings.grpc_max_connection_idle_seconds
        options.append(("grpc.max_connection_idle_ms", round(idle * 1000)))
    if settings.grpc_max_connection_age_seconds:
        age, grace = (
            settings.grpc_max_connection_age_seconds,
            settings.grpc_max_connection_grace_seconds,
        )
        options += [
            ("grpc.max_connection_age_ms", round(age * 1000)),
            ("grpc.max_connection_age_grace_ms", round(grace * 1000)),
        ]
    return options
