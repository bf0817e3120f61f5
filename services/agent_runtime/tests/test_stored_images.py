"""Images read from blobs: kept for their tenant up to a bound, and gone where they were removed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentmesh.conversation_store.v1 import blob_service_pb2 as pb2
from agentmesh.conversation_store.v1 import blob_service_pb2_grpc as pb2_grpc
from agentmesh_agent_runtime.adapters import stored_images
from agentmesh_agent_runtime.adapters.stored_images import StoredImages
from agentmesh_agent_runtime.turns.grant import Grant
from agentmesh_agent_runtime.turns.images import StoredImage
from meshkit.identity import CAPABILITY_HEADER

from services.agent_runtime.tests.memory_world import MemoryRun, agent, team


@dataclass
class Blobs(pb2_grpc.BlobServiceServicer):
    """Blobs by the capability that may read them."""

    kept: dict[tuple[str, str], bytes] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    def put(self, capability: str, data: bytes) -> StoredImage:
        digest = hashlib.sha256(data).hexdigest()
        self.kept[capability, digest] = data
        return StoredImage(digest, "image/png", len(data))

    async def ReadBlob(  # noqa: N802  the contract's name
        self, request: pb2.ReadBlobRequest, context: Any
    ) -> AsyncIterator[pb2.ReadBlobResponse]:
        capability = dict(context.invocation_metadata())[CAPABILITY_HEADER]
        self.reads.append(request.digest)
        data = self.kept.get((capability, request.digest))
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such blob")
            return
        for at in range(0, len(data), 3):
            yield pb2.ReadBlobResponse(chunk=data[at : at + 3])


@pytest_asyncio.fixture
async def served() -> AsyncIterator[tuple[Blobs, Any]]:
    blobs = Blobs()  # type: ignore[abstract]  # only ReadBlob is asked for here
    server = grpc.aio.server()
    pb2_grpc.add_BlobServiceServicer_to_server(blobs, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield blobs, pb2_grpc.BlobServiceStub(channel)
    await server.stop(None)


def grant(tenant: str) -> Grant:
    granted = MemoryRun(team(agent())).grant()
    return replace(granted, id=replace(granted.id, tenant=tenant), capability=f"of-{tenant}")


async def test_an_image_is_read_once_for_its_tenant_and_for_no_other(
    served: tuple[Blobs, Any],
) -> None:
    blobs, stub = served
    image = blobs.put("of-acme", b"picture")
    images = StoredImages(stub)
    assert await images.lease(grant("acme")).image(image) == b"picture"
    assert await images.lease(grant("acme")).image(image) == b"picture"
    assert len(blobs.reads) == 1
    assert await images.lease(grant("other")).image(image) is None


async def test_what_was_used_last_is_kept_up_to_a_bound(served: tuple[Blobs, Any]) -> None:
    blobs, stub = served
    reader = StoredImages(stub, kept_bytes=20).lease(grant("acme"))
    one, two, three = (blobs.put("of-acme", bytes([n]) * 8) for n in range(3))
    for image in (one, two, one, three, one, two):
        await reader.image(image)
    assert blobs.reads == [image.digest for image in (one, two, three, two)]
    large = blobs.put("of-acme", bytes(21))
    assert await reader.image(large) == bytes(21)
    assert await reader.image(large) == bytes(21)
    assert blobs.reads.count(large.digest) == 2


async def test_an_image_that_is_larger_than_it_may_be_is_given_up(
    served: tuple[Blobs, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, stub = served
    image = blobs.put("of-acme", bytes(100))
    monkeypatch.setattr(stored_images, "LARGEST_IMAGE", 50)
    assert await StoredImages(stub).lease(grant("acme")).image(image) is None
