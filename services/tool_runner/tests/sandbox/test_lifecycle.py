"""What survives which death: nothing that runs, everything that was saved."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from agentmesh_tool_runner.sandbox import cgroups
from agentmesh_tool_runner.sandbox.backend import SandboxBackend, Workspace
from agentmesh_tool_runner.sandbox.local import LocalBackend
from agentmesh_tool_runner.sandbox.model import (
    EndReason,
    ExecutionSpec,
    WorkspaceFullError,
    WorkspaceKey,
)

from ..processes import sleepers, sleepers_become  # noqa: TID252 - the tests are one tree
from .conftest import (
    LIMITS,
    Run,
    collect,
    make_backend,
    make_local_backend,
    read_host,
    saved_archives,
)

SOURCE = Path(cgroups.__file__).parents[2]


async def test_files_outlive_execution_save_and_restart(
    backend: SandboxBackend, workspace: Workspace, shell: Run, tmp_path: Path
) -> None:
    await shell(
        "mkdir -p a/b; echo text > a/b/file; ln -s b/file a/link; chmod 750 a/b; ln a/b/file hard"
    )
    await workspace.write_file("from/service.txt", b"by the service")
    await workspace.save()
    await backend.close()
    second = make_backend(backend.name, tmp_path)
    await second.start()
    try:
        restored = await second.workspace(workspace.key)
        command = (
            "cat a/link hard from/service.txt; stat -c %a a/b; echo more >> a/b/file; cat hard"
        )
        ended = await collect(restored, ExecutionSpec(["/bin/sh", "-c", command], limits=LIMITS))
        assert ended.stdout == "text\ntext\nby the service750\ntext\nmore\n"
    finally:
        await second.close()


async def test_program_can_write_what_the_service_wrote(workspace: Workspace, shell: Run) -> None:
    await workspace.write_file("deep/er/file", b"one\n")
    ended = await shell("echo two >> deep/er/file; cat deep/er/file; touch deep/er/other")
    assert ended.stdout == "one\ntwo\n"
    assert ended.outcome.succeeded


async def test_service_reads_what_the_program_hid(workspace: Workspace, shell: Run) -> None:
    await shell("mkdir d; echo x > d/f; chmod 000 d/f; chmod 000 d")
    await workspace.save()
    assert {entry.path for entry in await workspace.list_files()} == {"d", "d/f"}
    await workspace.remove("d")
    assert await workspace.list_files() == []


async def test_tenants_with_the_same_conversation_id_share_nothing(
    backend: SandboxBackend,
) -> None:
    one = await backend.workspace(WorkspaceKey("a", "conv_1"))
    other = await backend.workspace(WorkspaceKey("b", "conv_1"))
    await one.write_file("secret", b"a's")
    with pytest.raises(FileNotFoundError):
        await other.read_file("secret")


async def test_holes_in_files_do_not_fill_the_disk_when_saved(
    workspace: Workspace, shell: Run, tmp_path: Path
) -> None:
    await workspace.write_file("kept", b"kept")
    await workspace.save()
    await shell("for n in 1 2 3 4 5; do truncate -s 100M sparse$n; done")
    with pytest.raises(WorkspaceFullError):
        await workspace.save()
    assert [entry.path for entry in await workspace.list_files()] == ["kept"]
    assert sum(len(read_host(file)) for file in saved_archives(tmp_path)) < 1 << 20


async def test_deep_folders_are_refused_not_followed(workspace: Workspace, python: Run) -> None:
    await python("import os\nfor _ in range(500): os.mkdir('d'); os.chdir('d')")
    with pytest.raises(WorkspaceFullError):
        await workspace.save()


async def test_writing_more_than_fits_is_told(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceFullError):
        await workspace.write_file("large", bytes(200 << 20))
    assert await workspace.list_files() == []


async def test_idle_workspaces_are_closed_and_come_back(local_kind: str, tmp_path: Path) -> None:
    backend = make_local_backend(local_kind, tmp_path, max_open_workspaces=2, warm_sandboxes=0)
    await backend.start()
    try:
        for number in range(6):
            workspace = await backend.workspace(WorkspaceKey("t", f"conv_{number}"))
            await workspace.write_file("number", str(number).encode())
        mounted = read_host(f"/proc/{backend.launcher_pid}/mounts").count(b"/workspace-")
        assert mounted <= 2
        for number in range(6):
            workspace = await backend.workspace(WorkspaceKey("t", f"conv_{number}"))
            assert await workspace.read_file("number") == str(number).encode()
    finally:
        await backend.close()


async def test_launcher_death_ends_executions_and_the_next_one_runs(
    local_backend: LocalBackend, workspace: Workspace, python: Run
) -> None:
    await workspace.write_file("saved", b"saved")
    await workspace.save()
    execution = await workspace.execute(ExecutionSpec(["/bin/sleep", "600"], limits=LIMITS))
    assert local_backend.launcher_pid is not None
    os.kill(local_backend.launcher_pid, signal.SIGKILL)
    assert (await execution.outcome()).reason is EndReason.SANDBOX_LOST
    assert (await python("print(open('saved').read())")).stdout == "saved\n"


_SERVICE = """
import asyncio, pathlib, sys
sys.path.insert(0, {source!r})
from agentmesh_tool_runner.sandbox.model import ExecutionSpec, WorkspaceKey
from agentmesh_tool_runner.sandbox.bubblewrap import BubblewrapBackend, BubblewrapOptions
from agentmesh_tool_runner.sandbox.options import LocalOptions
from agentmesh_tool_runner.sandbox.sandlock import SandlockBackend

KINDS = {{
    "bubblewrap": (BubblewrapBackend, BubblewrapOptions),
    "sandlock": (SandlockBackend, LocalOptions),
}}

async def main():
    backend, options = KINDS[{kind!r}]
    backend = backend(options(pathlib.Path({folder!r}), use_cgroups={groups}))
    await backend.start()
    workspace = await backend.workspace(WorkspaceKey("t", "conv"))
    command = "(setsid sleep 54321 &) ; echo running; exec sleep 54321"
    execution = await workspace.execute(ExecutionSpec(["/bin/sh", "-c", command]))
    await anext(execution.output())
    print(backend.launcher_pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def start_service(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("victim", ["service", "launcher"])
@pytest.mark.parametrize("groups", [True, False])
def test_parent_death_kills_the_tree(
    local_kind: str, tmp_path: Path, victim: str, groups: bool
) -> None:
    code = _SERVICE.format(source=str(SOURCE), folder=str(tmp_path), groups=groups, kind=local_kind)
    with start_service(code) as service:
        try:
            assert service.stdout is not None
            launcher = int(service.stdout.readline())
            assert sleepers_become("54321", 2)
            os.kill(service.pid if victim == "service" else launcher, signal.SIGKILL)
            assert sleepers_become("54321", 0)
        finally:
            service.kill()


async def test_groups_of_a_killed_service_are_swept(local_kind: str, tmp_path: Path) -> None:
    hierarchies = cgroups.discover()
    if not cgroups.Parent(hierarchies).bounds_memory_and_processes:
        pytest.skip("no control group can be made here")
    code = _SERVICE.format(source=str(SOURCE), folder=str(tmp_path), groups=True, kind=local_kind)
    service = start_service(code)
    assert service.stdout is not None
    launcher = int(service.stdout.readline())
    # The launcher first, stopped, so that nobody is left to clean up.
    os.kill(launcher, signal.SIGSTOP)
    service.kill()
    service.wait()
    service.stdout.close()
    os.kill(launcher, signal.SIGKILL)
    left = [f for h in hierarchies for f in h.base.glob(f"agentmesh-{service.pid}-*")]
    assert left
    await asyncio.to_thread(cgroups.sweep, hierarchies)
    assert [folder for folder in left if folder.exists()] == []
    assert sleepers_become("54321", 0)


async def test_nothing_is_left_of_a_closed_backend(local_kind: str, tmp_path: Path) -> None:
    backend = make_local_backend(local_kind, tmp_path)
    await backend.start()
    workspace = await backend.workspace(WorkspaceKey("t", "conv"))
    execution = await workspace.execute(ExecutionSpec(["/bin/sleep", "98765"], limits=LIMITS))
    launcher = backend.launcher_pid
    await backend.close()
    assert (await execution.outcome()).reason is EndReason.CANCELLED
    with pytest.raises(FileNotFoundError):
        read_host(f"/proc/{launcher}/stat")
    for hierarchy in cgroups.discover():
        assert list(hierarchy.base.glob(f"agentmesh-{os.getpid()}-*")) == []
    assert sleepers("98765") == []
