"""What hostile callers and hostile programs do with paths and uploads. The service goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import errors_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.sandbox.files import reading, writing
from agentmesh_tool_runner.sandbox.model import ExecutionSpec, WorkspaceFullError, WorkspaceKey
from agentmesh_tool_runner.server import ToolRunner
from meshkit.context import Principal, principal_scope
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory

from .conftest import Mesh, backends, settings
from .file_client import Files, refusal
from .memory_store import MemoryStore

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MIB = 1 << 20


@pytest.fixture
async def small(
    mesh_hosts: HostFactory, store_host: tuple[MemoryStore, ServiceHost], tmp_path: Path
) -> AsyncIterator[Mesh]:
    """A runner whose workspaces hold 8 MiB and 200 files."""
    if not backends():
        pytest.skip("neither bubblewrap nor Landlock is here")
    store, host = store_host
    bounds = {"workspace_mib": 8, "workspace_files": 200, "upload_stall_seconds": 1.0}
    runner = ToolRunner(settings(tmp_path, host.grpc_address, **bounds))
    await runner.host.start()
    yield Mesh(runner, store, mesh_hosts.channels())
    await runner.host.stop()


async def run(mesh: Mesh, code: str) -> str:
    """Runs a program in the conversation's workspace; returns what it wrote."""
    items = await mesh.execute(code, conversation_id="conv_1")
    written = b"".join(item.output.data for item in items).decode()
    assert items[-1].finished.exit_code == 0, written
    return written


BAD_PATHS = {
    "climbs": "../x",
    "climbs in the middle": "a/../../x",
    "absolute": "/etc/passwd",
    "NUL": "a\0b",
    "long name": "n" * 256,
    "long name in bytes": "ü" * 128,
    "long path": "d/" * 1537,
    "deep": "d/" * 61 + "f",
    "of the service": ".agentmesh-versions/1/a",
    "also of the service": "x/../.agentmesh-drafts",
}
WITH_PATH: dict[str, dict[str, Any]] = {
    "ListFiles": {},
    "StatFile": {},
    "MakeFolder": {},
    "RemoveFile": {},
    "OrganizeFiles": {"by": pb.ORGANIZE_BY_KIND},
    "ListFileVersions": {},
    "SearchFiles": {"text": "x"},
    "MoveFile": {"destination": "d"},
    "CopyFile": {"destination": "d"},
}


async def test_paths_that_are_none_of_the_workspace(mesh: Mesh) -> None:
    files = Files(mesh)
    await files.write("here", b"x")
    for name, path in BAD_PATHS.items():
        for method, fields in WITH_PATH.items():
            error = await refusal(files.call(method, path=path, **fields))
            fields_named = [violation.field for violation in error.violations]
            assert (error.code, fields_named) == (INVALID, ["path"]), (method, name)
        for method in ("MoveFile", "CopyFile"):
            error = await refusal(files.call(method, path="here", destination=path))
            assert [v.field for v in error.violations] == ["destination"], (method, name)
        for call in (files.read(path), files.write(path, b"x")):
            error = await refusal(call)
            assert (error.code, error.violations[0].field) == (INVALID, "path"), name
    for method in ("RemoveFile", "MoveFile", "CopyFile"):
        error = await refusal(files.call(method, path=".", **WITH_PATH[method]))
        assert error.code is INVALID
    for token in ("no token", "ŋ", "/w=="):
        error = await refusal(files.call("ListFiles", page_token=token))
        assert (error.code, error.violations[0].field) == (INVALID, "page_token")
    error = await refusal(files.call("OrganizeFiles", by=9))
    assert error.violations[0].field == "by"
    assert await files.names() == ["here"]


LINKS = """
import os, socket
os.symlink("/etc", "out"); os.symlink("loop", "loop"); os.symlink("../../..", "up")
os.symlink("/etc/passwd", "passwd"); os.symlink("d/f", "inner")
os.mkfifo("pipe"); socket.socket(socket.AF_UNIX).bind("socket")
os.mkdir("d"); open("d/f", "w").write("f"); os.link("d/f", "hard")
os.mkdir("closed"); open("closed/f", "w").write("f"); os.chmod("closed", 0)
"""


async def test_links_and_special_files_are_shown_and_never_opened(mesh: Mesh) -> None:
    files = Files(mesh)
    await run(mesh, LINKS)
    async with asyncio.timeout(30):
        listed = (await files.call("ListFiles", all_kinds=True, shallow=True)).files
        kinds = {file.path: pb.FileKind.Name(file.kind)[10:] for file in listed}
        links = dict.fromkeys(("out", "loop", "up", "passwd", "inner"), "LINK")
        special = {"pipe": "OTHER", "socket": "OTHER"}
        folders = {"d": "FOLDER", "closed": "FOLDER"}
        assert kinds == {**links, **special, **folders, "hard": "FILE"}
        assert all(not file.size_bytes for file in listed if file.path != "hard")
        for path in ("out/passwd", "out", "loop", "loop/x", "up/x", "inner", "pipe", "socket"):
            error = await refusal(files.read(path))
            assert error.code is INVALID, path
            error = await refusal(files.write(path, b"x"))
            assert error.code is INVALID, path
            with contextlib.suppress(KeyError):
                await files.call("StatFile", path=path) if path in kinds else None
        for path in ("out/x", "loop/x", "up/x", "pipe/x"):
            for method in ("MoveFile", "CopyFile"):
                error = await refusal(files.call(method, path="hard", destination=path))
                assert error.code is INVALID, path
            error = await refusal(files.call("MakeFolder", path=path))
            assert error.code is INVALID, path
        error = await refusal(files.call("CopyFile", path="pipe", destination="p2"))
        assert error.code is INVALID
        assert not (await files.call("SearchFiles", text="root:")).lines
        await files.call("CopyFile", path="d", destination="copy")
        # A hard link is a name of its own: writing one leaves the other.
        await files.write("hard", b"new")
        assert await files.read("d/f") == b"f"
        for path in ("out", "loop", "up", "passwd", "pipe", "socket", "closed"):
            await files.call("RemoveFile", path=path, for_good=True)
    assert await files.names(all_kinds=True) == ["copy", "copy/f", "d", "d/f", "hard", "inner"]


async def test_a_program_that_plays_with_the_folders_of_the_service(mesh: Mesh) -> None:
    files = Files(mesh)
    for trick in (
        "os.symlink('/etc', name)",
        "open(name, 'w').close()",
        "os.mkfifo(name)",
        "os.makedirs(name + '/00000000000000000001-1-0-00000000/etc/passwd/deep')",
        "os.makedirs(name + '/00000000000000000001-99-999999999999999999-00000000')",
        "os.makedirs(name + '/nonsense')",
        "os.makedirs(name); os.symlink('/etc', name + '/00000000000000000002-1-5-00000000')",
    ):
        for name in (".agentmesh-versions", ".agentmesh-drafts"):
            await run(mesh, f"import os; name = {name!r}; {trick}")
        await files.write("f", b"old")
        await files.write("f", b"new")
        latest = (await files.call("ListFileVersions", path="f")).versions[0]
        await files.call("RestoreFileVersion", version_id=latest.id)
        assert await files.read("f") == b"old"
        await run(mesh, "import os; os.system('rm -rf .agentmesh-*')")


ODD_NAMES = r"""
for name in (b'new\nline', b'bad\xff\xfe.txt', '\uf0ff'.encode(), b' ', b'-rf', b'a\\b'):
    open(name, 'wb').write(name)
"""


async def test_names_of_any_bytes_can_be_listed_read_and_removed(mesh: Mesh) -> None:
    files = Files(mesh)
    await run(mesh, ODD_NAMES)
    shown = await files.names()
    assert sorted(shown) == sorted(
        ["new\nline", "bad\uf0ff\uf0fe.txt", "\uf0ef\uf083\uf0bf", " ", "-rf", "a\\b"]
    )
    assert await files.read("bad\uf0ff\uf0fe.txt") == b"bad\xff\xfe.txt"
    assert await files.read("\uf0ef\uf083\uf0bf") == "\uf0ff".encode()
    assert await files.names(page_size=1) == shown
    await files.call("MoveFile", path="bad\uf0ff\uf0fe.txt", destination="d/good\uf0ff")
    called = await mesh.call("file_manager", action="list")
    assert '"new\\nline" (8 bytes)' in called.result.output.splitlines()
    for path in await files.names():
        await files.call("RemoveFile", path=path)
    assert await files.names() == []


DEEP = """
import os
os.mkdir("deep"); os.chdir("deep")
for n in range(1500):
    os.mkdir(name); os.chdir(name)
open("f", "w").close()
"""


async def test_folders_nested_deeper_than_paths_go_can_be_removed(mesh: Mesh) -> None:
    files = Files(mesh)
    await files.write("here", b"x")
    for name in ("d", "d" * 250):
        # Such a workspace cannot be kept; while it is open the folders are there.
        with principal_scope(Principal("alice", "acme", 2)):
            backend = mesh.runner.sandboxes.backend
            workspace = await backend.workspace(WorkspaceKey("acme", "conv_1"))
            async with workspace.hold():
                argv = [backend.python, "-c", f"name = {name!r}\n{DEEP}"]
                execution = await workspace.execute(ExecutionSpec(argv))
                assert (await execution.outcome()).succeeded
                with pytest.raises(WorkspaceFullError):
                    await workspace.look(reading.list_files)
                await workspace.change(writing.remove, "deep")
                assert [e.path for e in await workspace.look(reading.list_files)] == ["here"]
    assert await files.names(all_kinds=True) == ["here"]


async def test_kinds_that_do_not_fit(mesh: Mesh) -> None:
    files = Files(mesh)
    await files.write("file", b"x")
    await files.call("MakeFolder", path="folder")
    for call in (
        files.read("folder"),
        files.write("folder", b"x"),
        files.read("file/below"),
        files.write("file/below", b"x"),
        files.call("MakeFolder", path="file"),
        files.call("MakeFolder", path="file/below"),
        files.call("ListFiles", path="file"),
        files.call("OrganizeFiles", path="file", by=pb.ORGANIZE_BY_DATE),
    ):
        error = await refusal(call)
        assert (error.code, error.violations[0].field) == (INVALID, "path")
    for call in (
        files.read("nothing"),
        files.call("StatFile", path="nothing"),
        files.call("ListFiles", path="nothing"),
        files.call("RemoveFile", path="nothing"),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND


async def test_another_tenant_finds_nothing(mesh: Mesh) -> None:
    mine, theirs = Files(mesh), Files(mesh, tenant="other")
    await mine.write("secret", b"acme's")
    await mine.write("secret", b"acme's new")
    version = (await mine.call("ListFileVersions")).versions[0].id
    assert await theirs.names() == []
    for call in (
        theirs.read("secret"),
        theirs.call("StatFile", path="secret"),
        theirs.call("RemoveFile", path="secret"),
        theirs.call("RestoreFileVersion", version_id=version),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND
    assert await mine.read("secret") == b"acme's new"


async def test_uploads_that_are_not_what_they_say(mesh: Mesh) -> None:
    files = Files(mesh)
    good = await files.write("f", b"good")
    for name, requests, field in (
        ("nothing", [], "conversation_id"),
        ("no name", [pb.WriteFileRequest(conversation_id="conv_1", chunk=b"x")], "path"),
        ("no conversation", [pb.WriteFileRequest(path="f", chunk=b"x")], "conversation_id"),
        ("too few bytes", files.requests("f", [b"ab"], size_bytes=3), "size_bytes"),
        ("too many bytes", files.requests("f", [b"ab"] * 3, size_bytes=3), "size_bytes"),
        ("other bytes", files.requests("f", [b"ab"], sha256=bytes(32)), "sha256"),
        (
            "two files",
            [*files.requests("f", [b"ab"]), *files.requests("g", [b"ab"])],
            "path",
        ),
    ):
        error = await refusal(files.stream(requests))
        assert (error.code, error.violations[0].field) == (INVALID, field), name
    error = await refusal(files.write("f", b"x", size_bytes=1 << 40))
    assert error.reason == errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE
    assert (await files.write("empty")).size_bytes == 0
    assert (await files.write("empty", b"", b"", b"x", b"")).size_bytes == 1
    assert (await files.call("StatFile", path="f")).file.etag == good.etag


async def test_chunks_after_an_error_change_nothing(mesh: Mesh) -> None:
    files = Files(mesh)
    refused = asyncio.Event()

    async def chunks() -> AsyncIterator[pb.WriteFileRequest]:
        yield files.requests("../out", [b"x"])[0]
        await refused.wait()
        for request in files.requests("fine", [b"x"] * 10):
            yield request

    call = files.upload(chunks())
    assert await call.code() is INVALID
    refused.set()
    assert await files.names() == []
    await files.write("fine", b"x")


async def test_an_upload_that_breaks_off_leaves_nothing(small: Mesh) -> None:
    files = Files(small)
    await files.write("new/f", b"old")
    halfway = asyncio.Event()

    async def chunks(path: str) -> AsyncIterator[pb.WriteFileRequest]:
        for request in files.requests(path, [bytes(MIB)] * 4):
            yield request
        halfway.set()
        await asyncio.Event().wait()

    for path in ("new/f", "made/on/the/way/f"):
        halfway.clear()
        call = files.upload(chunks(path))
        await halfway.wait()
        call.cancel()
        stalled = files.upload(chunks(path))
        assert await stalled.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The bytes of both are free again, or this did not fit.
    await files.write("large", *[bytes(MIB)] * 6)
    assert await files.read("new/f") == b"old"
    assert await files.names(all_kinds=True) == ["large", "new", "new/f"]
    listed = await run(small, "import os; print(sorted(os.listdir('.')))")
    assert listed == "['large', 'new']\n"


async def test_a_full_workspace(small: Mesh) -> None:
    files = Files(small)
    await files.write("kept", b"kept")
    full = grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in (
        files.write("f", *[bytes(MIB)] * 9),
        files.write("kept", *[bytes(MIB)] * 8),
    ):
        assert (await refusal(call)).code is full
    await files.write("half", *[bytes(MIB)] * 5)
    for call in (
        files.call("CopyFile", path="half", destination="copies/half"),
        files.write("half", *[bytes(MIB)] * 4),
    ):
        error = await refusal(call)
        assert (error.code, error.reason) == (full, errors_pb2.ERROR_REASON_QUOTA_EXCEEDED)
    assert [name for name in await files.names() if name != "half"] == ["kept"]
    await files.call("RemoveFile", path="half")
    await run(small, "import os\nfor n in range(180): open(f'f{n}', 'w').close()")
    with contextlib.suppress(AssertionError):
        for number in range(30):
            error = await refusal(files.write(f"one/more/{number}", b"x"))
    assert error.code is full
    await run(small, "import os; os.system('rm -rf f* one')")
    await files.write("room", b"again")
    assert await files.read("kept") == b"kept"


async def test_of_concurrent_writers_the_last_one_wins_whole(mesh: Mesh) -> None:
    files = Files(mesh)
    contents = [bytes([65 + number]) * 700_000 for number in range(8)]
    await asyncio.gather(
        *(files.write("f", content[:350_000], content[350_000:]) for content in contents)
    )
    assert await files.read("f") in contents
    versions = (await files.call("ListFileVersions", path="f")).versions
    assert len(versions) == 7
    assert {version.size_bytes for version in versions} == {700_000}
