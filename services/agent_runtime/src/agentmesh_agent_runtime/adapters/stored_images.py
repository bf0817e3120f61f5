"""Images of inputs, read from the store's blobs."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import grpc
from agentmesh.conversation_store.v1 import blob_service_pb2 as blobs_pb2

from agentmesh_agent_runtime.adapters.calls import capability_metadata, insist
from agentmesh_agent_runtime.turns.grant import Grant
from agentmesh_agent_runtime.turns.images import LARGEST_IMAGE, StoredImage

if TYPE_CHECKING:
    # The generated stubs for asyncio exist for type checkers only.
    from agentmesh.conversation_store.v1.blob_service_pb2_grpc import BlobServiceAsyncStub

KEPT_BYTES = 64 << 20
"""Of images used last, which are sent with every request of a conversation."""


class StoredImages:
    """The images of all turns; `lease` gives one turn its own."""

    def __init__(self, stub: BlobServiceAsyncStub, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._stub = stub
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    def lease(self, grant: Grant) -> LeasedImages:
        """Reads under the capability of the grant, and what its tenant read before."""
        return LeasedImages(self, grant)

    async def read(self, stored: StoredImage, tenant: str, capability: str) -> bytes | None:
        """See ImageReader."""
        key = (tenant, stored.digest)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        data = await insist(lambda: self._fetch(stored, capability))
        if data is not None:
            self._keep(key, data)
        return data

    async def _fetch(self, stored: StoredImage, capability: str) -> bytes | None:
        request = blobs_pb2.ReadBlobRequest(digest=stored.digest)
        data = bytearray()
        try:
            call = self._stub.ReadBlob(request, metadata=capability_metadata(capability))
            async for response in call:
                data += response.chunk
                if len(data) > LARGEST_IMAGE:
                    call.cancel()
                    return None
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return bytes(data)

    def _keep(self, key: tuple[str, str], data: bytes) -> None:
        if len(data) > self._kept_bytes:
            return
        self._bytes += len(data) - len(self._kept.pop(key, b""))
        self._kept[key] = data
        while self._bytes > self._kept_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped)


class LeasedImages:
    """ImageReader over BlobService, for one lease."""

    def __init__(self, images: StoredImages, grant: Grant) -> None:
        self._images = images
        self._tenant = grant.id.tenant
        self._capability = grant.capability

    async def image(self, stored: StoredImage) -> bytes | None:
        """See ImageReader."""
        return await self._images.read(stored, self._tenant, self._capability)
