"""Requests that the store carries out, and that are made of what is read first.

The store answers a repetition as the first time, whatever it was made of. But it must come that
far: what is read has perhaps changed, or is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from agentmesh.conversation_store.v1 import request_service_pb2 as pb
from google.protobuf.message import Message
from meshkit.errors import SERVICE_ATTRIBUTE, MeshError

from agentmesh_gateway.upstream import STORE

from .claims import digest_of

Response = TypeVar("Response", bound=Message)


class Recalls:
    """What the store answered to requests before."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    async def answered(self, request: Any, kind: type[Response]) -> Response | None:
        """The response of the store's method to the same request, if it was carried out. Raises
        AioRpcError, ALREADY_EXISTS if the id was used with another body."""
        if not request.request_id:
            return None
        found = await self._stub.RecallRequest(
            pb.RecallRequestRequest(
                request_id=request.request_id, request_digest=digest_of(request)
            )
        )
        return kind.FromString(found.response) if found.HasField("response") else None

    async def or_answered(
        self, request: Any, kind: type[Response], work: Callable[[], Awaitable[Response]]
    ) -> Response:
        """What `work` returns, which ends with the store's method. If it fails, what the same
        request was answered before; a request that is new costs nothing more."""
        try:
            return await work()
        except (MeshError, grpc.aio.AioRpcError) as failure:
            if _is_of_the_store_itself(failure):
                raise
            answered = await self._quietly(request, kind)
            if answered is None:
                raise
            return answered

    async def _quietly(self, request: Any, kind: type[Response]) -> Response | None:
        try:
            return await self.answered(request, kind)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                raise  # another body under the same id: that comes first
            return None


def _is_of_the_store_itself(failure: Exception) -> bool:
    """It was not there: there is nobody to ask."""
    return (
        isinstance(failure, grpc.aio.AioRpcError)
        and failure.code() is grpc.StatusCode.UNAVAILABLE
        and getattr(failure, SERVICE_ATTRIBUTE, "") == STORE
    )
