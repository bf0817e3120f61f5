"""BlobService of a real store, also of one that is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import pytest_asyncio
from agentmesh.conversation_store.v1 import blob_service_pb2 as pb
from agentmesh_conversation_store.blobs.keys import STAGING, blob_key, parse_key
from meshkit.testkit import MeshProcess, ProcessFailedError, raises_rich

from services.conversation_store.tests.driver import RunningStore, StoreClient
from services.conversation_store.tests.s3 import BUCKET, S3Server, s3_server
from services.conversation_store.tests.support import ACME, OTHER, acting
from services.conversation_store.tests.uploads import (
    MIB,
    download,
    downloaded_digest,
    stub,
    upload,
)

COMMAND = [sys.executable, "-m", "agentmesh_conversation_store"]
LARGE = 64
LARGER = 128
GROWTH = 96 * MIB
"""What a store may grow by while a blob of LARGER MiB passes, after one of LARGE MiB did: a few
parts of it, and what gRPC and the allocators of three languages keep, which has a bound."""


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningStore]:
    """A store that takes at most 20 MiB at once."""
    started = await RunningStore.start(tmp_path / "data", max_blob_bytes=20 * MIB)
    yield started
    await started.stop()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server for all tests of this module."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest_asyncio.fixture(params=["folder", "s3"])
async def process(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MeshProcess]:
    """A store in a process of its own."""
    environment = {}
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        environment = {
            **server.environment,
            "AGENTMESH_BLOB_URL": f"s3://{BUCKET}/{tmp_path.name}",
        }
    started = MeshProcess(COMMAND, tmp_path, environment)
    await started.start()
    yield started
    await started.close()


def folder_of(store: RunningStore) -> Path:
    """Where its blobs lie."""
    return store.settings.blob_folder


def files(folder: Path) -> list[str]:
    """Everything in a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


async def test_bytes_are_uploaded_and_downloaded(running: RunningStore) -> None:
    data = os.urandom(9 * MIB + 17)
    stored = await upload(running, data)
    assert stored.size_bytes == len(data)
    assert await download(running, stored.digest) == data
    assert await download(running, stored.digest, offset=MIB + 1) == data[MIB + 1 :]
    assert await download(running, stored.digest, offset=len(data)) == b""
    assert (await upload(running, data)).digest == stored.digest
    assert files(folder_of(running)) == [blob_key("acme", stored.digest)]
    empty = await upload(running, b"")
    assert await download(running, empty.digest) == b""


async def test_another_tenants_blob_does_not_exist(running: RunningStore) -> None:
    stored = await upload(running, b"ours")
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await download(running, stored.digest, OTHER)
    await upload(running, b"ours", OTHER)
    assert await download(running, stored.digest, OTHER) == b"ours"
    assert len(files(folder_of(running))) == 2


@pytest.mark.parametrize("announced", [0, 299_999, 300_001, -1])
async def test_another_size_than_announced_is_refused(
    running: RunningStore, announced: int
) -> None:
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="size_bytes"):
        await upload(running, os.urandom(300_000), announced=announced)
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="size_bytes"):
        await upload(running, os.urandom(12 * MIB), announced=12 * MIB + announced % 7 - 9)
    assert files(folder_of(running)) == []


async def test_bad_input_is_named(running: RunningStore) -> None:
    stored = await upload(running, b"here")
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="offset"):
        await download(running, stored.digest, offset=5)
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="digest"):
        await download(running, "../" + stored.digest)
    with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE") as caught:
        await upload(running, b"x", announced=20 * MIB + 1)
    assert caught.error.metadata["limit_bytes"] == str(20 * MIB)

    async def nothing() -> AsyncIterator[pb.UploadBlobRequest]:
        return
        yield

    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY"):
        await stub(running).UploadBlob(nothing(), metadata=acting(ACME))


@pytest.mark.parametrize("before", [0, 1, 10])
async def test_every_message_of_an_upload_is_checked(running: RunningStore, before: int) -> None:
    async def chunks() -> AsyncIterator[pb.UploadBlobRequest]:
        size = (before + 1) * MIB + 1
        for _ in range(before):
            yield pb.UploadBlobRequest(size_bytes=size, chunk=b"x" * MIB)
        yield pb.UploadBlobRequest(size_bytes=size, chunk=b"x" * (MIB + 1))

    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="chunk"):
        await stub(running).UploadBlob(chunks(), metadata=acting(ACME))
    assert files(folder_of(running)) == []


async def test_a_caller_that_leaves_leaves_nothing_behind(running: RunningStore) -> None:
    data = os.urandom(12 * MIB)

    async def half() -> AsyncIterator[pb.UploadBlobRequest]:
        for at in range(0, len(data), MIB):
            yield pb.UploadBlobRequest(size_bytes=20 * MIB, chunk=data[at : at + MIB])
        await asyncio.Event().wait()

    call = stub(running).UploadBlob(half(), metadata=acting(ACME))
    while not files(folder_of(running)):
        await asyncio.sleep(0.01)
    call.cancel()
    while files(folder_of(running)):
        await asyncio.sleep(0.01)


async def test_damaged_bytes_are_data_loss(running: RunningStore) -> None:
    stored = await upload(running, os.urandom(MIB))
    path = folder_of(running) / blob_key("acme", stored.digest)
    path.write_bytes(os.urandom(MIB))
    with raises_rich(grpc.StatusCode.DATA_LOSS, "CORRUPT"):
        await download(running, stored.digest)


async def test_a_large_blob_is_never_held_in_memory(process: MeshProcess, tmp_path: Path) -> None:
    client = StoreClient.to(process.grpc_address, tmp_path / "client")
    first = await upload(client, os.urandom(MIB), repeat=LARGE)
    await downloaded_digest(client, first.digest)
    usage = psutil.Process(process.pid)
    before, peak, done = usage.memory_info().rss, 0, False

    async def watch() -> None:
        nonlocal peak
        while not done:
            peak = max(peak, usage.memory_info().rss)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    stored = await upload(client, os.urandom(MIB), repeat=LARGER)
    assert await downloaded_digest(client, stored.digest) == stored.digest
    done = True
    await watching
    await client.close()
    assert stored.size_bytes == LARGER * MIB
    assert peak - before < GROWTH, f"grew by {(peak - before) // MIB} MiB"


async def test_a_store_killed_in_the_middle_of_an_upload_shows_nothing(
    process: MeshProcess, tmp_path: Path
) -> None:
    client = StoreClient.to(process.grpc_address, tmp_path / "client")
    kept = await upload(client, b"acknowledged")
    data = os.urandom(LARGE * MIB)
    sent = 0

    async def half() -> AsyncIterator[pb.UploadBlobRequest]:
        nonlocal sent
        for at in range(0, len(data) - MIB, MIB):
            sent = at
            yield pb.UploadBlobRequest(size_bytes=len(data), chunk=data[at : at + MIB])
        await asyncio.Event().wait()

    call = stub(client).UploadBlob(half(), metadata=acting(ACME))
    while sent < len(data) // 2:
        await asyncio.sleep(0.01)
    await process.sigkill()
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await client.close()
    await process.start()
    client = StoreClient.to(process.grpc_address, tmp_path / "client")
    folder = tmp_path / "data" / "blobs"
    visible = [name for name in files(folder) if parse_key(name)]
    assert all(name.startswith(STAGING) for name in {*files(folder)} - {*visible})
    assert await download(client, kept.digest) == b"acknowledged"
    assert (await upload(client, data)).size_bytes == len(data)
    await client.close()


async def test_a_place_that_does_not_answer_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{BUCKET}/down"
        running = await RunningStore.start(tmp_path / "data", blob_url=url)
        stored = await upload(running, b"here")
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE") as caught:
        await download(running, stored.digest)
    assert caught.error.retry_after
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"):
        await upload(running, b"there")
    assert await running.start_conversation()  # the log does not need it
    await running.stop()


async def test_a_wrong_url_stops_the_start_and_is_named(tmp_path: Path) -> None:
    store = MeshProcess(COMMAND, tmp_path, {"AGENTMESH_BLOB_URL": "s4://bucket"})
    with pytest.raises(ProcessFailedError, match=r"error: AGENTMESH_BLOB_URL: must be s3://"):
        await store.start()
