"""Files of a workspace over gRPC: what is there, moving it, and what was overwritten."""

from __future__ import annotations

import hashlib
from pathlib import Path

import grpc
import pytest
from agentmesh.common.v1 import errors_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb

from .conftest import CONVERSATION, Mesh
from .file_client import Files, refusal


@pytest.fixture
def files(mesh: Mesh) -> Files:
    return Files(mesh)


async def test_a_file_comes_back_with_its_size_hash_and_kind(files: Files) -> None:
    content = bytes(range(256)) * 5000
    digest = hashlib.sha256(content).digest()
    chunks = [content[at : at + 100_000] for at in range(0, len(content), 100_000)]
    written = await files.write("data/a.json", *chunks, size_bytes=len(content), sha256=digest)
    assert (written.size_bytes, written.sha256) == (len(content), digest)
    assert await files.read("data/a.json") == content
    assert await files.read("data/a.json", offset=300_000, limit=70_000) == content[300_000:370_000]
    assert await files.read("data/a.json", offset=len(content) + 1) == b""
    stat = (await files.call("StatFile", path="data/./a.json", with_sha256=True)).file
    assert (stat.path, stat.kind, stat.etag) == ("data/a.json", pb.FILE_KIND_FILE, written.etag)
    assert (stat.sha256, stat.media_type) == (digest, "application/json")
    first = await anext(aiter(files.download("data/a.json")))
    stat.ClearField("sha256")
    assert first.file == stat


async def test_a_listing_goes_by_pages_and_kinds(files: Files) -> None:
    for name in ("b/2.txt", "b/1.py", "a.py", "b.txt", "c/d/e.py"):
        await files.write(name, b"x")
    await files.call("MakeFolder", path="empty/inner")
    everything = ["a.py", "b/1.py", "b/2.txt", "b.txt", "c/d/e.py"]
    assert await files.names() == everything
    assert await files.names(page_size=2) == everything
    assert await files.names(path="b") == ["b/1.py", "b/2.txt"]
    assert await files.names(shallow=True) == ["a.py", "b.txt"]
    tops = ["a.py", "b", "b.txt", "c", "empty"]
    assert await files.names(shallow=True, all_kinds=True, page_size=1) == tops
    assert await files.names(glob="*.py") == ["a.py", "b/1.py", "c/d/e.py"]
    assert await files.names(glob="b/*") == ["b/1.py", "b/2.txt"]
    assert await files.names(path="empty") == []


async def test_what_is_overwritten_or_removed_can_be_restored(files: Files, mesh: Mesh) -> None:
    await files.write("notes/a.txt", b"one")
    await files.write("notes/a.txt", b"two")
    removed = await files.call("RemoveFile", path="notes")
    assert await files.names(all_kinds=True) == []
    versions = (await files.call("ListFileVersions", path="notes")).versions
    assert [(v.path, v.kind, v.size_bytes) for v in versions] == [
        ("notes", pb.FILE_KIND_FOLDER, 3),
        ("notes/a.txt", pb.FILE_KIND_FILE, 3),
    ]
    assert versions[0].id == removed.version_id
    await files.call("RestoreFileVersion", version_id=versions[0].id)
    assert await files.read("notes/a.txt") == b"two"
    await files.call("RestoreFileVersion", version_id=versions[1].id)
    assert await files.read("notes/a.txt") == b"one"
    latest = (await files.call("ListFileVersions", path="notes/a.txt")).versions[0]
    await files.call("RestoreFileVersion", version_id=latest.id)
    assert await files.read("notes/a.txt") == b"two"
    assert await files.names(all_kinds=True) == ["notes", "notes/a.txt"]
    error = await refusal(files.call("RestoreFileVersion", version_id="nonsense"))
    assert error.code is grpc.StatusCode.NOT_FOUND
    # Versions rest with the files, and come back with them.
    await mesh.runner.sandboxes.backend.close()
    await mesh.runner.sandboxes.backend.start()
    assert len((await files.call("ListFileVersions")).versions) == 4


async def test_a_version_is_restored_once_by_whoever_asks_again(files: Files) -> None:
    """As one does who never heard what came of it."""
    before = hashlib.sha256(b"two").digest()
    await files.write("a.txt", b"one")
    await files.write("a.txt", b"two")
    version = (await files.call("ListFileVersions", path="a.txt")).versions[0].id
    again = {"version_id": version, "replaces_sha256": before}
    restored = (await files.call("RestoreFileVersion", **again)).file
    assert await files.read("a.txt") == b"one"
    assert (await files.call("RestoreFileVersion", **again)).file == restored
    assert len((await files.call("ListFileVersions", path="a.txt")).versions) == 2
    await files.write("a.txt", b"three")
    error = await refusal(files.call("RestoreFileVersion", **again))
    assert error.reason == errors_pb2.ERROR_REASON_ETAG_MISMATCH
    await files.call("RemoveFile", path="a.txt")
    error = await refusal(files.call("RestoreFileVersion", **again))
    assert error.reason == errors_pb2.ERROR_REASON_ETAG_MISMATCH
    assert await files.names() == []
    await files.call("RestoreFileVersion", version_id=version, replaces_sha256=b"")
    assert await files.read("a.txt") == b"one"
    error = await refusal(
        files.call("RestoreFileVersion", version_id=version, replaces_sha256=bytes(33))
    )
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_folder_is_known_again_by_what_is_in_it(files: Files, mesh: Mesh) -> None:
    make = "os.makedirs('in/deep'); os.symlink('a', 'in/link'); open('in/a', 'w').write('1')"
    await mesh.execute(f"import os; {make}", conversation_id=CONVERSATION)
    version = (await files.call("RemoveFile", path="in")).version_id
    again = {"version_id": version, "replaces_sha256": b""}
    for _ in range(2):
        restored = (await files.call("RestoreFileVersion", **again)).file
        assert (restored.path, restored.kind) == ("in", pb.FILE_KIND_FOLDER)
    error = await refusal(files.call("RestoreFileVersion", version_id=version))
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    changes = (
        "open('in/a', 'w').write('2')",
        "open('in/a', 'w').write('1'); os.rmdir('in/deep')",
        "os.mkdir('in/deep'); os.remove('in/link'); os.symlink('b', 'in/link')",
    )
    for change in changes:
        await mesh.execute(f"import os; {change}", conversation_id=CONVERSATION)
        error = await refusal(files.call("RestoreFileVersion", **again))
        assert error.reason == errors_pb2.ERROR_REASON_ETAG_MISMATCH, change


async def test_versions_are_bounded(files: Files) -> None:
    for number in range(14):
        await files.write("often", str(number).encode())
    await files.write("rarely", b"old")
    await files.write("rarely", b"new")
    versions = (await files.call("ListFileVersions", path="often")).versions
    assert len(versions) == 10
    await files.call("RestoreFileVersion", version_id=versions[-1].id)
    assert await files.read("often") == b"3"
    # A quarter of the workspace, 128 MiB, is for versions: the next ones push the oldest out.
    large = [bytes(1 << 20)] * 20
    await files.write("large", *large)
    await files.write("large", *large)
    await files.write("large", b"small")
    kept = (await files.call("ListFileVersions")).versions
    assert [(v.path, v.size_bytes >> 20) for v in kept] == [("large", 20)]


async def test_versions_give_way_to_files(files: Files) -> None:
    await files.write("old", *[bytes(1 << 20)] * 30)
    await files.call("RemoveFile", path="old")
    written = await files.write("new", *[bytes(1 << 20)] * 110)
    assert written.size_bytes == 110 << 20
    assert not (await files.call("ListFileVersions")).versions


async def test_moving_and_copying(files: Files) -> None:
    await files.write("a/one.txt", b"1")
    await files.write("a/two.txt", b"2")
    moved = (await files.call("MoveFile", path="a/one.txt", destination="b/c/1.txt")).file
    assert moved.path == "b/c/1.txt"
    await files.call("CopyFile", path="b", destination="d/e")
    await files.call("CopyFile", path="a/two.txt", destination="d/e/c/2.txt")
    assert await files.names() == ["a/two.txt", "b/c/1.txt", "d/e/c/1.txt", "d/e/c/2.txt"]
    for method in ("MoveFile", "CopyFile"):
        call = files.call(method, path="a/two.txt", destination="b/c/1.txt")
        assert (await refusal(call)).code is grpc.StatusCode.ALREADY_EXISTS
        call = files.call(method, path="b", destination="b/c/inside")
        assert (await refusal(call)).code is grpc.StatusCode.INVALID_ARGUMENT
        call = files.call(method, path="nowhere", destination="x")
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND
        call = files.call(method, path="a/two.txt", destination="b", replace=True)
        assert (await refusal(call)).code is grpc.StatusCode.INVALID_ARGUMENT
    await files.call("CopyFile", path="a/two.txt", destination="b/c/1.txt", replace=True)
    assert await files.read("b/c/1.txt") == b"2"
    await files.call("MoveFile", path="d/e/c/1.txt", destination="b/c/1.txt", replace=True)
    assert await files.read("b/c/1.txt") == b"1"
    versions = (await files.call("ListFileVersions", path="b/c/1.txt")).versions
    assert len(versions) == 2


async def test_searching(files: Files) -> None:
    await files.write("src/a.py", b"import os\nprint(os.name)\n")
    await files.write("src/b.txt", b"OS\nxx" + b"y" * 100_000 + b"os\n")
    await files.write("c.bin", b"\0os\n")
    found = await files.call("SearchFiles", text="os")
    assert [(hit.path, hit.line) for hit in found.lines] == [
        ("src/a.py", 1),
        ("src/a.py", 2),
        ("src/b.txt", 2),
    ]
    assert found.lines[0].text == "import os"
    assert not found.incomplete
    found = await files.call("SearchFiles", text="os", path="src", glob="*.txt", ignore_case=True)
    assert [(hit.path, hit.line) for hit in found.lines] == [("src/b.txt", 1), ("src/b.txt", 2)]
    found = await files.call("SearchFiles", text="os", limit=1)
    assert (len(found.lines), found.incomplete) == (1, True)


async def test_organising(files: Files) -> None:
    for name in ("a.py", "b.PY", "c.png", "d", ".hidden", "code/a.py", "e.tar.gz"):
        await files.write(name, name.encode())
    planned = await files.call("OrganizeFiles", by=pb.ORGANIZE_BY_KIND, dry_run=True)
    assert await files.names(shallow=True) == [".hidden", "a.py", "b.PY", "c.png", "d", "e.tar.gz"]
    done = await files.call("OrganizeFiles", by=pb.ORGANIZE_BY_KIND)
    assert done == planned
    assert {move.path: move.destination for move in done.moves} == {
        "a.py": "code/a (2).py",
        "b.PY": "code/b.PY",
        "c.png": "images/c.png",
        "d": "other/d",
        "e.tar.gz": "archives/e.tar.gz",
    }
    assert await files.read("code/a (2).py") == b"a.py"
    assert await files.read("code/a.py") == b"code/a.py"
    by_size = await files.call("OrganizeFiles", path="code", by=pb.ORGANIZE_BY_SIZE, dry_run=True)
    assert by_size.moves[0].destination == "code/small/a (2).py"
    by_date = await files.call("OrganizeFiles", path="code", by=pb.ORGANIZE_BY_DATE, dry_run=True)
    assert by_date.moves[0].destination.count("/") == 3


async def test_an_etag_guards_against_others(files: Files) -> None:
    first = await files.write("shared", b"first")
    await files.write("shared", b"second", etag=first.etag)
    error = await refusal(files.write("shared", b"third", etag=first.etag))
    assert (error.code, error.reason) == (
        grpc.StatusCode.ABORTED,
        errors_pb2.ERROR_REASON_ETAG_MISMATCH,
    )
    error = await refusal(files.write("shared", b"third", must_not_exist=True))
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    error = await refusal(files.write("gone", b"third", etag=first.etag))
    assert error.code is grpc.StatusCode.ABORTED
    assert await files.read("shared") == b"second"


async def test_a_reader_gets_one_file_or_an_error(files: Files) -> None:
    await files.write("f", *[b"a" * (1 << 20)] * 20)
    stream = files.download("f")
    await anext(aiter(stream))
    await files.write("f", *[b"b" * (1 << 20)] * 20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stream:
            pass
    assert caught.value.code() is grpc.StatusCode.ABORTED


async def test_an_upload_is_not_held_in_memory(files: Files) -> None:
    await files.write("warm", *[bytes(1 << 20)] * 4)
    before = _resident()
    await files.write("large", *[bytes(1 << 20)] * 100)
    # Client and server share this process; the pages of the workspace's tmpfs do not count.
    assert _resident() - before < 60 << 20


def _resident() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")
