"""BlobService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation_store.v1 import blob_service_pb2 as pb
from agentmesh.conversation_store.v1 import blob_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import current_capability, current_principal
from meshkit.errors import MeshError

from agentmesh_conversation_store.blobs.interface import Blobs

from .intake import UPLOADS_AT_ONCE, Slots, next_of
from .rejections import answers_rejections, streams_rejections

FULL_NAME = "agentmesh.conversation_store.v1.BlobService"
PATIENCE_SECONDS = 60.0
"""How long an upload may say nothing."""


class BlobServicer(pb_grpc.BlobServiceServicer):
    """Large payloads of the caller's tenant."""

    def __init__(self, blobs: Blobs, max_bytes: int) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._slots = Slots(UPLOADS_AT_ONCE, "uploads")

    @answers_rejections
    async def UploadBlob(
        self, requests: AsyncIterator[pb.UploadBlobRequest], _: ServicerContext
    ) -> pb.UploadBlobResponse:
        first = await _next(requests)
        if first is None:
            raise MeshError.malformed("an upload has at least one message, with its size")
        if first.size_bytes < 0:
            raise MeshError.invalid("size_bytes", "must not be negative")
        if first.size_bytes > self._max_bytes:
            raise _too_large(first.size_bytes, self._max_bytes)
        chunks = _chunks(first, requests)
        with self._slots.taken():
            blob = await self._blobs.put(current_principal().tenant, chunks)
        return pb.UploadBlobResponse(digest=blob.digest, size_bytes=blob.size)

    @streams_rejections
    async def DownloadBlob(
        self, request: pb.DownloadBlobRequest, _: ServicerContext
    ) -> AsyncIterator[pb.DownloadBlobResponse]:
        tenant = current_principal().tenant
        async for chunk in self._download(tenant, request.digest, request.offset):
            yield pb.DownloadBlobResponse(chunk=chunk)

    @streams_rejections
    async def ReadBlob(
        self, request: pb.ReadBlobRequest, _: ServicerContext
    ) -> AsyncIterator[pb.ReadBlobResponse]:
        tenant = current_capability().tenant
        async for chunk in self._download(tenant, request.digest, request.offset):
            yield pb.ReadBlobResponse(chunk=chunk)

    async def _download(self, tenant: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        blob = await self._blobs.find(tenant, digest)
        if offset > blob.size:
            raise MeshError.invalid("offset", f"lies beyond the end: there are {blob.size} bytes")
        async for chunk in self._blobs.read(blob, offset):
            yield chunk


async def _chunks(
    first: pb.UploadBlobRequest, requests: AsyncIterator[pb.UploadBlobRequest]
) -> AsyncIterator[bytes]:
    """The bytes of an upload; raises unless they are as many as announced."""
    size, left = first.size_bytes, first.size_bytes
    request: pb.UploadBlobRequest | None = first
    while request is not None:
        left -= len(request.chunk)
        if left < 0:
            raise MeshError.invalid("size_bytes", f"more than the announced {size} bytes came")
        if request.chunk:
            yield request.chunk
        request = await _next(requests)
    if left:
        raise MeshError.invalid(
            "size_bytes", f"{size - left} bytes came instead of the announced {size}"
        )


async def _next(requests: AsyncIterator[pb.UploadBlobRequest]) -> pb.UploadBlobRequest | None:
    return await next_of(requests, PATIENCE_SECONDS)


def _too_large(size: int, limit: int) -> MeshError:
    return MeshError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE,
        f"a blob of {size} bytes exceeds the limit of {limit} bytes",
        metadata={"limit_bytes": str(limit)},
    )
