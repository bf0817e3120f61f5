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

from agentmesh_conversation_store.blobs.interface import Blob, Blobs

from .intake import UPLOADS_AT_ONCE, Slots, next_of
from .rejections import answers_rejections, streams_rejections

FULL_NAME = "agentmesh.conversation_store.v1.BlobService"
PATIENCE_SECONDS = 60.0
"""How long an upload may say nothing."""


_Upload = pb.UploadBlobRequest | pb.WriteBlobRequest


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
        blob = await self._upload(current_principal().tenant, requests)
        return pb.UploadBlobResponse(digest=blob.digest, size_bytes=blob.size)

    @answers_rejections
    async def WriteBlob(
        self, requests: AsyncIterator[pb.WriteBlobRequest], _: ServicerContext
    ) -> pb.WriteBlobResponse:
        blob = await self._upload(current_capability().tenant, requests)
        return pb.WriteBlobResponse(digest=blob.digest, size_bytes=blob.size)

    async def _upload(self, tenant: str, requests: AsyncIterator[_Upload]) -> Blob:
        first = await next_of(requests, PATIENCE_SECONDS)
        if first is None:
            raise MeshError.malformed("an upload has at least one message, with its size")
        if first.size_bytes < 0:
            raise MeshError.invalid("size_bytes", "must not be negative")
        if first.size_bytes > self._max_bytes:
            raise _too_large(first.size_bytes, self._max_bytes)
        with self._slots.taken():
            return await self._blobs.put(tenant, _chunks(first, requests))

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


async def _chunks(first: _Upload, requests: AsyncIterator[_Upload]) -> AsyncIterator[bytes]:
    """The bytes of an upload; raises unless they are as many as announced."""
    size, left = first.size_bytes, first.size_bytes
    request: _Upload | None = first
    while request is not None:
        left -= len(request.chunk)
        if left < 0:
            raise MeshError.invalid("size_bytes", f"more than the announced {size} bytes came")
        if request.chunk:
            yield request.chunk
        request = await next_of(requests, PATIENCE_SECONDS)
    if left:
        raise MeshError.invalid(
            "size_bytes", f"{size - left} bytes came instead of the announced {size}"
        )


def _too_large(size: int, limit: int) -> MeshError:
    return MeshError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE,
        f"a blob of {size} bytes exceeds the limit of {limit} bytes",
        metadata={"limit_bytes": str(limit)},
    )
