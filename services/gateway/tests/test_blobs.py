"""Blobs in and out over both edges, with a real store behind."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from agentmesh.gateway.v1 import blob_service_pb2 as pb2
from agentmesh.gateway.v1.blob_service_pb2_grpc import BlobServiceStub
from meshkit.testkit import HostFactory, raises_rich

from .front import QUICK_START, START, Front
from .tenants import caller

MIB = 1024 * 1024
OCTETS = {"content-type": "application/octet-stream"}


def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def stub_of(front: Front) -> Any:
    return BlobServiceStub(front.gateway.channel)


async def upload(front: Front, data: bytes, size: int | None = None, piece: int = MIB) -> Any:
    """Over gRPC; `size` is what is announced."""
    yield_first = pb2.UploadBlobRequest(size_bytes=len(data) if size is None else size)

    async def requests() -> AsyncIterator[pb2.UploadBlobRequest]:
        yield yield_first
        for at in range(0, len(data), piece):
            yield pb2.UploadBlobRequest(chunk=data[at : at + piece])

    return await stub_of(front).UploadBlob(requests())


@pytest.mark.parametrize("size", [0, 1, 300_000, 5 * MIB + 7])
async def test_what_goes_in_over_one_edge_comes_out_over_both(front: Front, size: int) -> None:
    data = some_bytes(size)
    digest = hashlib.sha256(data).hexdigest()
    posted = await front.http.post("/blobs", content=data, headers=OCTETS)
    assert posted.status_code == 200, posted.text
    assert posted.json() == {"digest": digest, "size_bytes": size}
    again = await upload(front, data)
    assert (again.digest, again.size_bytes) == (digest, size)
    got = await front.http.get(f"/blobs/{digest}")
    assert (got.status_code, got.content) == (200, data)
    offset = size // 2
    got = await front.http.get(f"/blobs/{digest}", params={"offset": offset})
    assert got.content == data[offset:]
    call = stub_of(front).DownloadBlob(pb2.DownloadBlobRequest(digest=digest))
    chunks = [response.chunk async for response in call]
    assert b"".join(chunks) == data
    assert all(len(chunk) <= MIB for chunk in chunks)


async def test_no_browser_takes_a_blob_for_a_page_of_this_origin(front: Front) -> None:
    stored = await upload(front, b"<script>alert(1)</script>")
    path = f"/blobs/{stored.digest}"
    for params, content_type in (
        ({}, "application/octet-stream"),
        ({"media_type": "text/html"}, "text/html"),
        ({"media_type": "image/svg+xml"}, "image/svg+xml"),
    ):
        got = await front.http.get(path, params=params)
        assert got.status_code == 200
        assert got.headers["content-type"] == content_type
        assert got.headers["content-disposition"] == "attachment"
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["cross-origin-resource-policy"] == "same-origin"
        assert got.headers["content-security-policy"].startswith("default-src 'none'")
    for media_type in ("text/html\r\nset-cookie: a=b", "text/html\n", "html", "a/b/c", "a/ü"):
        refused = await front.http.get(path, params={"media_type": media_type})
        assert refused.status_code == 400, media_type
        assert "media_type" in refused.text


async def test_what_is_no_blob_is_said(front: Front) -> None:
    missing = "0" * 64
    assert (await front.http.get(f"/blobs/{missing}")).status_code == 404
    assert (await front.http.get("/blobs/no-digest")).status_code == 400
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub_of(front).DownloadBlob(pb2.DownloadBlobRequest(digest=missing)).read()
    stored = await upload(front, b"four")
    beyond = await front.http.get(f"/blobs/{stored.digest}", params={"offset": 5})
    assert beyond.status_code == 400


async def test_uploads_that_are_not_what_they_say_are_refused(front: Front) -> None:
    for size in (3, 5):
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="size_bytes"):
            await upload(front, b"four", size)
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="size_bytes"):
        await upload(front, b"", -1)
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="chunk"):
        await upload(front, some_bytes(MIB + 1), piece=MIB + 1)
    with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE"):
        await upload(front, b"", 2**50)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"four"

    unannounced = await front.http.post("/blobs", content=pieces(), headers=OCTETS)
    assert unannounced.status_code == 400
    assert "Content-Length" in unannounced.text
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {"content-type": f"{media_type}; charset=utf-8"}
        refused = await front.http.post("/blobs", content=b"four", headers=headers)
        assert refused.status_code == 415, media_type
    image = await front.http.post("/blobs", content=b"x", headers={"content-type": "image/png"})
    assert image.status_code == 200


async def test_an_upload_that_breaks_off_leaves_nothing(front: Front) -> None:
    data = some_bytes(2 * MIB)
    reader, writer = await asyncio.open_connection(*front.gateway.url[7:].split(":"))
    head = f"POST /blobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n"
    writer.write(f"{head}content-type: application/octet-stream\r\n\r\n".encode() + data[:-1])
    await writer.drain()
    writer.close()
    assert await reader.read() == b""
    digest = hashlib.sha256(data).hexdigest()
    assert (await front.http.get(f"/blobs/{digest}")).status_code == 404
    assert (await front.http.post("/blobs", content=data, headers=OCTETS)).status_code == 200


async def test_roles_and_tenants(own_front: Front, mesh_hosts: HostFactory) -> None:
    operator = await caller(own_front, mesh_hosts, "operator")
    viewer = await caller(own_front, mesh_hosts, "viewer")
    other = await caller(own_front, mesh_hosts, "admin", "other")
    assert (await own_front.http.post("/blobs", content=b"x", headers=OCTETS)).status_code == 401
    for who, status in ((viewer, 403), (operator, 200)):
        headers = OCTETS | who.headers
        posted = await own_front.http.post("/blobs", content=b"secret", headers=headers)
        assert posted.status_code == status, posted.text
    path = f"/blobs/{posted.json()['digest']}"
    for who, status in ((viewer, 200), (operator, 200), (other, 404)):
        got = await own_front.http.get(path, headers=who.headers)
        assert got.status_code == status
    assert (await own_front.http.get(path)).status_code == 401
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        await stub_of(own_front).UploadBlob(iter([]), metadata=viewer.metadata)


async def test_messages_refer_to_blobs_of_their_own_tenant(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    ours = await caller(own_front, mesh_hosts, "operator", "acme")
    theirs = await caller(own_front, mesh_hosts, "operator", "other")
    posted = await own_front.http.post("/blobs", content=b"GIF89a", headers=OCTETS | theirs.headers)
    their_blob = {"digest": posted.json()["digest"], "media_type": "image/gif"}
    posted = await own_front.http.post("/blobs", content=b"GIF87a", headers=OCTETS | ours.headers)
    our_blob = {"digest": posted.json()["digest"], "media_type": "image/gif", "filename": "a.gif"}
    body = QUICK_START | {"parts": [{"blob": our_blob}]}
    started = await own_front.http.post(START, json=body, headers=ours.headers)
    assert started.status_code == 200, started.text
    path = f"/conversations/{started.json()['conversation_id']}"
    messages = (await own_front.http.get(path, headers=ours.headers)).json()["messages"]
    assert messages[0]["parts"][1]["blob"]["filename"] == "a.gif"
    assert messages[0]["parts"][1]["blob"]["digest"] == our_blob["digest"]
    wrong = {"parts": [{"blob": our_blob}, {"blob": their_blob}]}
    for target, request in (
        (START, QUICK_START | wrong),
        (f"{path}/message", {"content": "Look", **wrong}),
    ):
        refused = await own_front.http.post(target, json=request, headers=ours.headers)
        assert refused.status_code == 404, refused.text
        assert "parts[1].blob.digest" in refused.text
