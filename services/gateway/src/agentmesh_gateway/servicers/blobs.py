"""BlobService: bytes that messages refer to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from agentmesh.conversation_store.v1 import blob_service_pb2 as store_pb2
from agentmesh.gateway.v1 import blob_service_pb2 as pb2

from agentmesh_gateway.idempotency.once import Attempt, OncePerRequest
from agentmesh_gateway.relay import forward, hand_on
from agentmesh_gateway.servicers.context import Context
from agentmesh_gateway.upstream import Upstream


class BlobServicer:
    """All of the contract is served; chunks pass on as they come, at the pace of the slower end."""

    def __init__(self, upstream: Upstream, once: OncePerRequest) -> None:
        self._store = upstream.blobs
        self._download = upstream.download_blob_bytes
        self._once = once

    async def upload_blob(
        self, requests: AsyncIterator[pb2.UploadBlobRequest], context: Context
    ) -> pb2.UploadBlobResponse:
        """Hands the chunks on."""
        first = await anext(aiter(requests), None) or pb2.UploadBlobRequest()

        async def upload(_: Attempt) -> pb2.UploadBlobResponse:
            stored = await hand_on(_pieces(first, requests), self._store.UploadBlob)
            return pb2.UploadBlobResponse(digest=stored.digest, size_bytes=stored.size_bytes)

        return await self._once.repeatable(first, pb2.UploadBlobResponse, upload)

    async def download_blob(
        self, request: pb2.DownloadBlobRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """The blob, in the chunks in which the store reads it."""
        wanted = store_pb2.DownloadBlobRequest(digest=request.digest, offset=request.offset)
        call = self._download(wanted, timeout=context.time_remaining())
        async with aclosing(forward(call)) as responses:
            async for response in responses:
                yield response


async def _pieces(
    first: pb2.UploadBlobRequest, requests: AsyncIterator[pb2.UploadBlobRequest]
) -> AsyncIterator[store_pb2.UploadBlobRequest]:
    yield _piece(first)
    async for request in requests:
        yield _piece(request)


def _piece(request: pb2.UploadBlobRequest) -> store_pb2.UploadBlobRequest:
    return store_pb2.UploadBlobRequest(chunk=request.chunk, size_bytes=request.size_bytes)
