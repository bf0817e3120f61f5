"""Uploads and downloads as callers make them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from agentmesh.conversation_store.v1 import blob_service_pb2 as pb
from agentmesh.conversation_store.v1 import blob_service_pb2_grpc as pb_grpc
from meshkit.identity import Principal

from services.conversation_store.tests.driver import StoreClient
from services.conversation_store.tests.support import ACME, acting

MIB = 1024 * 1024


def stub(client: StoreClient) -> Any:
    """BlobService."""
    return pb_grpc.BlobServiceStub(client.channel)


async def upload(
    client: StoreClient,
    data: bytes,
    principal: Principal = ACME,
    *,
    announced: int | None = None,
    repeat: int = 1,
) -> pb.UploadBlobResponse:
    """Sends `data`, `repeat` times over, in chunks of 1 MiB."""
    size = len(data) * repeat if announced is None else announced

    async def requests() -> AsyncIterator[pb.UploadBlobRequest]:
        first = pb.UploadBlobRequest(size_bytes=size, media_type="application/octet-stream")
        yield first
        for _ in range(repeat):
            for at in range(0, len(data), MIB):
                yield pb.UploadBlobRequest(chunk=data[at : at + MIB])

    response: pb.UploadBlobResponse = await stub(client).UploadBlob(
        requests(), metadata=acting(principal)
    )
    return response


async def download(
    client: StoreClient, digest: str, principal: Principal = ACME, offset: int = 0
) -> bytes:
    """All of a blob from an offset on."""
    request = pb.DownloadBlobRequest(digest=digest, offset=offset)
    call = stub(client).DownloadBlob(request, metadata=acting(principal))
    return b"".join([response.chunk async for response in call])


async def downloaded_digest(client: StoreClient, digest: str) -> str:
    """The digest of what a download brings, of which nothing is kept."""
    hasher = hashlib.sha256()
    request = pb.DownloadBlobRequest(digest=digest)
    async for response in stub(client).DownloadBlob(request, metadata=acting(ACME)):
        hasher.update(response.chunk)
    return hasher.hexdigest()
