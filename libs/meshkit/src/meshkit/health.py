"""The standard gRPC health service.

Not that of grpcio-health-checking: there a watch that ends takes the news from all others of its
service, and one whose client reads nothing holds up whoever changes a status, and so the drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """What checks and watches hear. The empty name is the whole process."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._watches: dict[str, set[asyncio.Event]] = {}
        self._drained = False

    def set(self, service: str, *, serving: bool) -> None:
        """Says whether a service serves; after a drain nothing does any more."""
        served = serving and not self._drained
        self._statuses[service] = Response.SERVING if served else Response.NOT_SERVING
        for changed in self._watches.get(service, ()):
            changed.set()

    def drain(self) -> None:
        """Nothing serves from now on."""
        self._drained = True
        for service in list(self._statuses):
            self.set(service, serving=False)

    async def Check(  # noqa: N802  the contract's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> Response:
        """The status of a service; NOT_FOUND if there is none of that name."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return Response(status=status)

    async def Watch(  # noqa: N802  the contract's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[Response]:
        """The status of a service, now and whenever it is another one. Who reads slowly hears of
        the last change."""
        changed, told = asyncio.Event(), None
        watches = self._watches.setdefault(request.service, set())
        watches.add(changed)
        try:
            while True:
                changed.clear()
                status = self._statuses.get(request.service, Response.SERVICE_UNKNOWN)
                if status != told:
                    told = status
                    yield Response(status=status)
                await changed.wait()
        finally:
            watches.discard(changed)
            if not watches:
                self._watches.pop(request.service, None)
