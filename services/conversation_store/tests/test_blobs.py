"""Blobs at every kind of place: a folder, and a server that speaks S3."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agentmesh_conversation_store.blobs import object_store
from agentmesh_conversation_store.blobs.interface import MAX_CHUNK, Blob
from agentmesh_conversation_store.blobs.keys import STAGING, blob_key, parse_key, tenant_folder
from agentmesh_conversation_store.blobs.location import Place, check_url, open_place
from agentmesh_conversation_store.blobs.object_store import PART, ObjectStoreBlobs
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from hypothesis import given
from hypothesis import strategies as st

from services.conversation_store.tests.s3 import BUCKET, S3Server, s3_server

MIB = 1024 * 1024
LARGE = 3 * PART + 12_345
SMALL = 300_000


@dataclass
class Location:
    """Blobs, and how to look behind them."""

    blobs: ObjectStoreBlobs
    leftovers: Callable[[], list[str]]
    overwrite: Callable[[str, bytes], None]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server for all tests of this module."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Location:
    """An empty place of each kind."""
    if request.param == "folder":
        opened = open_place("", tmp_path / "blobs")
        return Location(ObjectStoreBlobs(opened), _files(tmp_path / "blobs"), _write(opened))
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    prefix = tmp_path.name
    opened = open_place(f"s3://{BUCKET}/{prefix}", tmp_path, allow_http=True)

    def leftovers() -> list[str]:
        lines = (server.uploads() + server.keys()).replace("<Key>", "\n").splitlines()
        keys = [line.partition("</Key>")[0] for line in lines if "</Key>" in line]
        return [key for key in keys if key.startswith(prefix) and parse_key(_cut(key)) is None]

    return Location(ObjectStoreBlobs(opened), leftovers, _write(opened))


def _cut(key: str) -> str:
    return key.partition("/")[2]


def _files(folder: Path) -> Callable[[], list[str]]:
    def leftovers() -> list[str]:
        files = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
        return [str(file) for file in files if parse_key(str(file)) is None]

    return leftovers


def _write(opened: Place) -> Callable[[str, bytes], None]:
    def overwrite(key: str, data: bytes) -> None:
        opened.store.put(key, data)

    return overwrite


async def chunks(data: bytes, size: int = MAX_CHUNK) -> AsyncIterator[bytes]:
    """As an upload brings them."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def content(place: Location, blob: Blob, offset: int = 0) -> bytes:
    """Everything from an offset on."""
    return b"".join([chunk async for chunk in place.blobs.read(blob, offset)])


async def everything(place: Location) -> list[tuple[str, str, int]]:
    """What is there, to compare."""
    return sorted([(b.tenant, b.digest, b.size) async for b in place.blobs.everything()])


@contextmanager
def refused(reason: Reason) -> Iterator[None]:
    """The block is refused for this reason."""
    with pytest.raises(Rejection) as caught:
        yield
    assert caught.value.reason is reason, caught.value


@pytest.mark.parametrize("size", [0, 1, SMALL, PART, PART + 1, LARGE])
async def test_what_goes_in_comes_out(place: Location, size: int) -> None:
    data = os.urandom(size)
    put = await place.blobs.put("acme", chunks(data))
    assert (put.digest, put.size) == (hashlib.sha256(data).hexdigest(), size)
    found = await place.blobs.find("acme", put.digest)
    assert (found.size, await content(place, found)) == (size, data)
    for offset in {0, size // 2, max(0, size - 1), size}:
        assert await content(place, found, offset) == data[offset:]
    assert not place.leftovers()


async def test_chunks_are_bounded(place: Location) -> None:
    blob = await place.blobs.put("acme", chunks(os.urandom(LARGE)))
    sizes = [len(chunk) async for chunk in place.blobs.read(blob)]
    assert max(sizes) <= MAX_CHUNK


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_the_same_bytes_are_kept_once_and_are_young_again(place: Location, size: int) -> None:
    data = os.urandom(size)
    first = await place.blobs.put("acme", chunks(data))
    written_at = (await place.blobs.find("acme", first.digest)).written_at
    await asyncio.sleep(1.1)  # object stores tell whole seconds
    again = await place.blobs.put("acme", chunks(data, 77_777))
    assert await everything(place) == [("acme", first.digest, size)]
    assert (await place.blobs.find("acme", again.digest)).written_at > written_at


async def test_tenants_never_meet(place: Location) -> None:
    names = ["acme", "Acme", "acme/", "../acme", ".", "", "_2e", STAGING, "a" * 300, "ácme", "a/00"]
    data = os.urandom(SMALL)
    digest = hashlib.sha256(data).hexdigest()
    for number, name in enumerate(names):
        with refused(Reason.NOT_FOUND):
            await place.blobs.find(name, digest)
        await place.blobs.put(name, chunks(data))
        assert len(await everything(place)) == number + 1
    await place.blobs.remove("acme", digest)
    assert {tenant for tenant, _, _ in await everything(place)} == {*names} - {"acme"}


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_folder_belongs_to_one_tenant(one: str, other: str) -> None:
    digest = "ab" * 32
    assert parse_key(blob_key(one, digest)) == (one, digest)
    mine, theirs = tenant_folder(one), tenant_folder(other)
    assert mine == mine.lower()
    assert all(0 < len(part) <= 105 and part not in {".", ".."} for part in mine.split("/"))
    if one != other:
        assert not f"{theirs}/ab".startswith(f"{mine}/ab")


@pytest.mark.parametrize("digest", ["", "../../x", "AB" * 32, "ab" * 31, "g" * 64])
async def test_what_is_no_digest_names_no_blob(place: Location, digest: str) -> None:
    with refused(Reason.NOT_FOUND):
        await place.blobs.find("acme", digest)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_an_upload_that_breaks_leaves_nothing(place: Location, size: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in chunks(os.urandom(size)):
            yield chunk
        raise ValueError("the caller is gone")

    with pytest.raises(ValueError, match="the caller is gone"):
        await place.blobs.put("acme", broken())
    assert await everything(place) == []
    assert not place.leftovers()


async def test_an_upload_that_is_cancelled_leaves_nothing(place: Location) -> None:
    stuck = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        async for chunk in chunks(os.urandom(LARGE)):
            yield chunk
        stuck.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(place.blobs.put("acme", slow()))
    await stuck.wait()
    assert await everything(place) == []
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await everything(place) == []
    assert not place.leftovers()


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_bytes_that_changed_are_not_passed_off_as_whole(place: Location, size: int) -> None:
    data = os.urandom(size)
    blob = await place.blobs.put("acme", chunks(data))
    for changed in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1]):
        place.overwrite(blob_key("acme", blob.digest), changed)
        got = bytearray()
        with refused(Reason.CORRUPT):
            async for chunk in place.blobs.read(await place.blobs.find("acme", blob.digest)):
                got += chunk
        assert len(got) < size
    await place.blobs.put("acme", chunks(data))
    assert await content(place, await place.blobs.find("acme", blob.digest)) == data


async def test_a_blob_that_goes_while_it_is_read_is_not_found(place: Location) -> None:
    blob = await place.blobs.put("acme", chunks(os.urandom(LARGE)))
    reading = place.blobs.read(blob)
    await anext(reading)
    await place.blobs.remove("acme", blob.digest)
    await place.blobs.remove("acme", blob.digest)
    with refused(Reason.NOT_FOUND):
        async for _ in reading:
            pass


async def test_only_what_is_old_enough_is_removed(place: Location) -> None:
    blob = await place.blobs.put("acme", chunks(b"young"))
    assert not await place.blobs.remove("acme", blob.digest, timedelta(minutes=1))
    assert (await place.blobs.find("acme", blob.digest)).size == len(b"young")
    assert await place.blobs.remove("acme", blob.digest)
    assert not await place.blobs.remove("acme", blob.digest)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_what_is_wanted_again_while_it_is_removed_is_there_or_refused(
    place: Location, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its age and the removal; a success must not be followed by a loss."""
    data = os.urandom(size)
    blob = await place.blobs.put("acme", chunks(data))
    head = place.blobs._head
    looked, may_go_on = asyncio.Event(), asyncio.Event()

    async def with_a_pause(key: str) -> Any:
        found = await head(key)
        looked.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(place.blobs, "_head", with_a_pause)
    removing = asyncio.create_task(place.blobs.remove("acme", blob.digest))
    await looked.wait()
    renewing = asyncio.create_task(place.blobs.renew(blob))
    putting = asyncio.create_task(place.blobs.put("acme", chunks(data)))
    await asyncio.wait({renewing, putting}, timeout=0.3)
    may_go_on.set()
    assert await removing
    with refused(Reason.NOT_FOUND):
        await renewing
    assert (await putting).digest == blob.digest
    assert await content(place, await place.blobs.find("acme", blob.digest)) == data


async def test_a_sweep_takes_what_is_old_and_belongs_to_nobody(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = await place.blobs.put("acme", chunks(os.urandom(SMALL)))
    place.overwrite(f"{STAGING}/from-a-dead-process", b"half")
    assert await place.blobs.sweep() == 0
    assert len(place.leftovers()) == 1
    monkeypatch.setattr(object_store, "STALE_FILE", timedelta(seconds=-5))
    monkeypatch.setattr(object_store, "STALE_OBJECT", timedelta(seconds=-5))
    assert await place.blobs.sweep() == 1
    assert not place.leftovers()
    assert (await place.blobs.find("acme", blob.digest)).size == SMALL


async def test_files_of_a_killed_upload_into_a_folder_are_swept(tmp_path: Path) -> None:
    """Such files are hidden from listings of the folder, and still take room."""
    blobs = ObjectStoreBlobs(open_place("", tmp_path))
    half = tmp_path / STAGING / "0123#1"
    half.parent.mkdir()
    half.write_bytes(b"half")
    old = datetime.now(UTC) - object_store.STALE_FILE - timedelta(seconds=1)
    os.utime(half, (old.timestamp(), old.timestamp()))
    assert await blobs.sweep() == 1
    assert not half.exists()


async def test_no_room_left_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the same write fails."""
    blobs = ObjectStoreBlobs(open_place("", tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PART, before[1]))
    try:
        with refused(Reason.STORAGE_FULL):
            await blobs.put("acme", chunks(os.urandom(LARGE)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not _files(tmp_path)()
    assert [blob async for blob in blobs.everything()] == []


async def test_a_server_that_is_down_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        blobs = ObjectStoreBlobs(open_place(f"s3://{BUCKET}/down", tmp_path, allow_http=True))
        blob = await blobs.put("acme", chunks(b"here"))
    with refused(Reason.SERVICE_UNAVAILABLE):
        await blobs.find("acme", blob.digest)
    with refused(Reason.SERVICE_UNAVAILABLE):
        await blobs.put("acme", chunks(b"there"))


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("/var/blobs", "no scheme"),
        ("ftp://host/x", "ftp"),
        ("memory:///", "memory"),
        ("s3://", "bucket"),
        ("s3:///prefix", "bucket"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("file://host/x", "whole path"),
        ("file:///", "whole path"),
    ],
)
def test_a_url_that_names_no_place_is_refused(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        check_url(url)
