"""Health of the other services, asked by the standard gRPC health protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh_gateway.health import SERVING, Probe

_TIMEOUT_SECONDS = 1.0


def health_probe(channel: grpc.aio.Channel) -> Probe:
    """Asks the service behind `channel`, for at most a second."""
    # The stub makes its methods when it is made, which its type information does not say.
    stub: Any = health_pb2_grpc.HealthStub(channel)

    async def probe() -> str:
        try:
            # A channel that waits between two attempts would answer from memory: let it try.
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return "unreachable: no answer within a second"
            return f"unreachable: {error.details() or error.code().name.lower()}"
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return SERVING if name == "SERVING" else name.lower()

    return probe


def health_probes(channels: Mapping[str, grpc.aio.Channel]) -> dict[str, Probe]:
    """A probe for each service."""
    return {name: health_probe(channel) for name, channel in channels.items()}
