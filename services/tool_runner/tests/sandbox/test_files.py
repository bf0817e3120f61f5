"""File operations do the same on every backend, wherever its files are."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import threading

import pytest
from agentmesh_tool_runner.sandbox.backend import SandboxBackend, Workspace
from agentmesh_tool_runner.sandbox.beneath import UnsafePathError
from agentmesh_tool_runner.sandbox.files import organising, reading, versions, writing
from agentmesh_tool_runner.sandbox.files.organising import Move, OrganiseBy
from agentmesh_tool_runner.sandbox.local import LocalBackend
from agentmesh_tool_runner.sandbox.model import (
    EndReason,
    ExecutionSpec,
    FileRules,
    WorkspaceInUseError,
    WorkspaceKey,
)

from .conftest import LIMITS, Run


async def test_operations_on_files(workspace: Workspace, shell: Run) -> None:
    content = bytes(range(256)) * 4000
    async with workspace.upload("a/data.bin") as upload:
        await upload.write(content[:500_000])
        assert not (await workspace.look(reading.list_files))
        await upload.write(content[500_000:])
        entry = await upload.finish()
    assert (entry.size, upload.sha256) == (len(content), hashlib.sha256(content).digest())
    stat = await workspace.look(reading.stat_file, "a/data.bin", with_hash=True)
    assert (stat.sha256, stat.etag) == (upload.sha256, entry.etag)
    assert await workspace.look(reading.read_file, "a/data.bin", 256, 3, entry.etag) == b"\0\1\2"
    with pytest.raises(OSError, match="changed") as caught:
        await workspace.look(reading.read_file, "a/data.bin", 0, 1, "another")
    assert caught.value.errno == errno.ESTALE
    async with workspace.upload("a/data.bin") as upload:
        await upload.write(b"given up")
    assert await workspace.look(reading.read_file, "a/data.bin", 0, 4) == content[:4]

    await workspace.change(writing.write_file, "a/data.bin", b"find me\nhere\n")
    found = await workspace.look(reading.search_files, "ME", ignore_case=True)
    assert [(hit.path, hit.line) for hit in found.hits] == [("a/data.bin", 1)]
    await workspace.change(writing.copy, "a", "b")
    await workspace.change(writing.move, "b/data.bin", "b/data.py")
    with pytest.raises(FileExistsError):
        await workspace.change(writing.move, "b/data.py", "a/data.bin")
    moves = await workspace.change(organising.organise, "b", OrganiseBy.KIND)
    assert moves == [Move("b/data.py", "b/code/data.py")]
    version = await workspace.change(writing.remove, "b")
    kept = await workspace.look(versions.list_versions)
    assert [(each.id == version, each.path, each.kind) for each in kept] == [
        (True, "b", "directory"),
        (False, "a/data.bin", "file"),
    ]
    await workspace.change(writing.restore_version, kept[0].id)
    await workspace.change(writing.restore_version, kept[1].id)
    with pytest.raises(FileNotFoundError):
        await workspace.change(writing.restore_version, "nonsense")
    # What the service made is the program's own, as if it had made it.
    ended = await shell("cat b/code/data.py; wc -c < a/data.bin; echo more >> a/data.bin; ls -A")
    assert ended.stdout == f"find me\nhere\n{len(content)}\n.agentmesh-versions\na\nb\n"


async def test_operations_and_what_a_program_laid(workspace: Workspace, shell: Run) -> None:
    await shell("ln -s /etc out; ln -s x x; mkfifo pipe; mkdir d; echo f > d/f; ln d/f hard")
    await shell("printf x > \"$(printf 'bad\\377\\nname')\"")
    listed = {entry.path: entry.kind for entry in await workspace.look(reading.list_files)}
    links = {"out": "link", "x": "link", "pipe": "other"}
    files = {"d": "directory", "d/f": "file", "hard": "file", "bad\uf0ff\nname": "file"}
    assert listed == {**links, **files}
    assert await workspace.look(reading.read_file, "bad\uf0ff\nname", 0, 9) == b"x"
    for path in ("out", "out/passwd", "x", "x/y", "pipe"):
        with pytest.raises((UnsafePathError, OSError)):
            await workspace.look(reading.read_file, path, 0, 9)
        with pytest.raises((UnsafePathError, OSError)):
            await workspace.change(writing.write_file, path, b"over")
        with pytest.raises((UnsafePathError, OSError)):
            async with workspace.upload(path) as upload:
                await upload.finish()
    await workspace.change(writing.write_file, "hard", b"new")
    assert await workspace.look(reading.read_file, "d/f", 0, 9) == b"f\n"
    for path in listed:
        if "/" not in path:
            await workspace.change(writing.remove, path)
    assert not await workspace.look(reading.list_files)


async def test_holes_do_not_hide_what_is_behind_them(workspace: Workspace, shell: Run) -> None:
    """A search reads 256 MiB at most, and holes are read like anything else."""
    async with workspace.hold():
        await shell("for f in a b c; do truncate -s 100M $f; done; echo found > d")
        result = await workspace.look(reading.search_files, "found")
        assert ([hit.path for hit in result.hits], result.complete) == (["d"], False)
        stat = await workspace.look(reading.stat_file, "a", with_hash=True)
        assert stat.sha256 == hashlib.sha256(bytes(100 << 20)).digest()


async def test_a_session_is_closed_when_nothing_runs_in_it(
    backend: SandboxBackend, workspace: Workspace
) -> None:
    await workspace.change(writing.write_file, "f", b"kept")
    spec = ExecutionSpec(["/bin/sh", "-c", "sleep 600"], limits=LIMITS)
    execution = await workspace.execute(spec)
    (session,) = backend.sessions("tenant")
    assert (session.key, session.executions) == (workspace.key, 1)
    assert not backend.sessions("another")
    with pytest.raises(WorkspaceInUseError):
        await backend.close_session(workspace.key)
    assert await backend.close_session(workspace.key, kill=True)
    assert (await execution.outcome()).reason is EndReason.CANCELLED
    assert not backend.sessions("tenant")
    assert not await backend.close_session(workspace.key)
    assert await workspace.look(reading.read_file, "f", 0, 9) == b"kept"


async def test_whoever_leaves_a_change_keeps_others_out_until_it_is_done(
    local_backend: LocalBackend,
) -> None:
    workspace = await local_backend.workspace(WorkspaceKey("tenant", "conv_test"))
    order: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def slow(root: int, rules: FileRules) -> None:
        begun.set()
        may_end.wait(30)
        order.append("slow")

    leaving = asyncio.create_task(workspace.change(slow))
    await asyncio.to_thread(begun.wait, 30)
    leaving.cancel()
    next_one = asyncio.create_task(workspace.change(lambda root, rules: order.append("next")))
    closing = asyncio.create_task(local_backend.close_session(workspace.key))
    with pytest.raises(WorkspaceInUseError):
        await closing
    done, _ = await asyncio.wait([leaving, next_one], timeout=0.5)
    assert not done
    may_end.set()
    await next_one
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert order == ["slow", "next"]
