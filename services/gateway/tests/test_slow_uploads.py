"""Uploads over gRPC that are held for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from agentmesh.gateway.v1 import blob_service_pb2 as blob_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.blob_service_pb2_grpc import BlobServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh_gateway.settings import GatewaySettings
from meshkit.testkit import HostFactory, MeshProcess, raises_rich

from .conftest import Gateway, Gateways
from .front import Front
from .tenants import Caller, caller

PATIENCE = 30.0
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
SIZE = 64 * 1024


async def before(store: MeshProcess, gateways: Gateways, **settings: Any) -> Gateway:
    return await gateways.start(
        store_address=store.grpc_address, key_cache_seconds=0.05, **settings
    )


def upload(gateway: Gateway, who: Caller | None = None) -> Any:
    """A blob, of which nothing is sent yet."""
    stub: Any = BlobServiceStub(gateway.channel)
    return stub.UploadBlob(metadata=who.metadata if who else (), timeout=PATIENCE)


def piece(size: int) -> blob_pb2.UploadBlobRequest:
    return blob_pb2.UploadBlobRequest(chunk=b"x" * size, size_bytes=SIZE)


@pytest.mark.parametrize("pieces", [0, 1])
async def test_an_upload_that_sends_nothing_more_is_ended(
    shared_store: MeshProcess, gateways: Gateways, pieces: int
) -> None:
    gateway = await before(shared_store, gateways, upload_seconds=0.3)
    call = upload(gateway)
    for _ in range(pieces):
        await call.write(piece(16))
    with raises_rich(LATE, "DEADLINE_EXCEEDED") as caught:
        await call
    assert "too slowly" in caught.error.message


async def test_an_import_is_no_other_upload(shared_store: MeshProcess, gateways: Gateways) -> None:
    gateway = await before(shared_store, gateways, upload_seconds=0.3)
    stub: Any = ConversationServiceStub(gateway.channel)
    call = stub.ImportConversation(timeout=PATIENCE)
    await call.write(pb2.ImportConversationRequest(chunk=b'{"format": '))
    with raises_rich(LATE, "DEADLINE_EXCEEDED"):
        await call


async def test_drops_do_not_prolong_it(shared_store: MeshProcess, gateways: Gateways) -> None:
    gateway = await before(shared_store, gateways, upload_seconds=0.5)
    call = upload(gateway)

    async def drip() -> None:
        while True:
            await call.write(piece(1))
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    with raises_rich(LATE, "DEADLINE_EXCEEDED"):
        await call
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)


async def test_who_sends_enough_has_as_long_as_it_takes(
    shared_store: MeshProcess, gateways: Gateways
) -> None:
    gateway = await before(
        shared_store, gateways, upload_seconds=2.0, upload_min_bytes_per_second=1024
    )
    call = upload(gateway)
    for _ in range(8):  # four seconds of silence, and each piece is good for eight
        await call.write(piece(SIZE // 8))
        await asyncio.sleep(0.5)
    await call.done_writing()
    assert (await call).size_bytes == SIZE


async def test_without_a_limit_nobody_is_hurried(
    shared_store: MeshProcess, gateways: Gateways
) -> None:
    gateway = await before(shared_store, gateways, upload_seconds=0)
    call = upload(gateway)
    await call.write(piece(SIZE))
    await call.done_writing()
    assert (await call).size_bytes == SIZE


async def test_nobody_takes_all_places_of_their_tenant(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await before(
        shared_store, gateways, max_uploads_per_principal=2, upload_seconds=PATIENCE
    )
    front = Front(gateway, shared_store)
    hog, other = [await caller(front, mesh_hosts, "operator", "uploads") for _ in "12"]
    begun = [asyncio.ensure_future(_begun(gateway, hog)) for _ in "123"]
    (refused,), held = await asyncio.wait(
        begun, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
    )
    with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as caught:
        await refused
    (quota,) = caught.error.quotas
    assert quota.subject == f"principal:{hog.key_id}"
    assert quota.description == "2 uploads at once at one replica"
    response = await front.http.post(
        "/blobs",
        content=b"x",
        headers=hog.headers | {"content-type": "application/octet-stream"},
    )
    assert response.status_code == 429, response.text
    assert await _uploaded(gateway, other)
    for call in held:
        call.cancel()
    async with asyncio.timeout(PATIENCE):  # their places come back
        while not await _uploaded(gateway, hog):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "bad",
    [
        {"upload_seconds": -1},
        {"upload_min_bytes_per_second": -1},
        {"max_uploads_per_principal": -1},
        {"slow_reader_seconds": -1},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_limits_that_are_none_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        GatewaySettings(**bad)


async def _uploaded(gateway: Gateway, who: Caller) -> bool:
    call = upload(gateway, who)
    try:
        await call.write(piece(SIZE))
        await call.done_writing()
        return bool((await call).size_bytes == SIZE)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False


async def _begun(gateway: Gateway, who: Caller) -> None:
    """Waits for the answer to an upload that does not end."""
    call = upload(gateway, who)
    await call.write(piece(1))
    await call
