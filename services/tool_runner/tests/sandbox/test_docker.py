"""What only containers of a Docker engine have: keepers, cells, an agent, leftovers to sweep."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker
import pytest
from agentmesh_tool_runner.sandbox.backend import Workspace
from agentmesh_tool_runner.sandbox.docker import flags
from agentmesh_tool_runner.sandbox.docker.backend import DockerBackend
from agentmesh_tool_runner.sandbox.model import MIB, EndReason, ExecutionSpec, WorkspaceKey

from ..processes import sleepers_become  # noqa: TID252 - the tests are one tree
from . import engine
from .conftest import LIMITS, Run, collect, make_backend
from .engine import ours, volumes
from .test_lifecycle import SOURCE, start_service

pytestmark = pytest.mark.parametrize("kind", ["docker"])


async def start_sleeping(workspace: Workspace, seconds: str) -> Any:
    command = f"(setsid sleep {seconds} &) ; echo running; exec sleep {seconds}"
    execution = await workspace.execute(ExecutionSpec(["/bin/sh", "-c", command], limits=LIMITS))
    await anext(execution.output())
    return execution


async def test_containers_are_hardened(
    client: docker.APIClient, workspace: Workspace, shell: Run
) -> None:
    """As the engine itself says: nothing of it may have been left out on the way."""
    await shell("true")
    [cell] = ours(client, "cell")
    told = client.inspect_container(cell["Id"])
    host = told["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert any(option.startswith("seccomp={") for option in host["SecurityOpt"])
    assert host["ReadonlyRootfs"]
    assert not host["Privileged"]
    assert host["PidsLimit"] == LIMITS.processes + 1
    assert host["Memory"] == host["MemorySwap"] == LIMITS.memory_bytes + flags.AGENT_BYTES
    assert host["CpuQuota"] == int(LIMITS.cpus * host["CpuPeriod"])
    assert all("size=" in options for options in host["Tmpfs"].values())
    assert host["AutoRemove"]
    assert host["LogConfig"]["Type"] == "none"
    assert not host["Binds"]
    assert not host["Devices"]
    assert told["Config"]["User"].partition(":")[0] not in ("", "0")
    assert told["Config"]["StdinOnce"]


async def test_a_cell_is_used_again_and_nothing_of_the_last_program_is_in_it(
    client: docker.APIClient, workspace: Workspace, shell: Run
) -> None:
    command = """
mkdir -p /tmp/a/b /dev/shm/c; echo secret > /tmp/a/b/file; chmod 000 /tmp/a/b /tmp/a
(trap '' TERM; setsid sleep 77777) & exec true
"""
    await shell(command)
    first = [cell["Id"] for cell in ours(client, "cell")]
    seen = await shell("ls -A /tmp /dev/shm /run/input; grep -l sleep /proc/[0-9]*/comm")
    assert [cell["Id"] for cell in ours(client, "cell")] == first
    assert seen.stdout.split() == ["/dev/shm:", "/run/input:", "/tmp:"]  # noqa: S108


async def test_a_program_with_other_bounds_gets_another_cell(
    client: docker.APIClient, workspace: Workspace, shell: Run
) -> None:
    await shell("true")
    await shell("true", LIMITS.__class__(memory_bytes=64 * MIB, processes=7))
    bounds = {
        client.inspect_container(cell["Id"])["HostConfig"]["PidsLimit"]
        for cell in ours(client, "cell")
    }
    assert bounds == {8, LIMITS.processes + 1}


async def test_a_cell_that_holds_memory_is_not_used_again(
    client: docker.APIClient, workspace: Workspace, shell: Run
) -> None:
    """Files in the workspace count where they were written: the next program has all of its own."""
    await shell("true")
    [first] = ours(client, "cell")
    await shell("head -c 100000000 /dev/zero > large")
    ended = await shell("head -c 20000000 /dev/zero > more; echo done")
    assert ended.stdout == "done\n"
    assert first["Id"] not in [cell["Id"] for cell in ours(client, "cell")]


async def test_a_program_can_neither_read_nor_steer_the_agent(python: Run) -> None:
    code = """
import os, signal
for name in ("mem", "environ", "maps", "fd/1", "root", "cwd"):
    try:
        os.close(os.open(f"/proc/1/{name}", os.O_RDONLY))
        print("opened", name)
    except OSError:
        pass
for name in ("fd/1", "mem", "oom_score_adj"):
    try:
        os.close(os.open(f"/proc/1/{name}", os.O_WRONLY))
        print("opened", name, "to write")
    except OSError:
        pass
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGHUP):
    os.kill(1, number)
print("the agent goes on")
"""
    ended = await python(code)
    assert ended.stdout == "the agent goes on\n"
    assert ended.outcome.succeeded


async def test_what_looks_like_a_frame_is_only_output(python: Run) -> None:
    code = """
import json, os, struct
header = json.dumps({"ended": True, "code": 0, "full": False,
                     "usage": {"cpu": 0, "peak": 0, "kills": 0, "refusals": 0}}).encode()
for number in (1, 2):
    os.write(number, struct.pack(">II", len(header), 0) + header)
raise SystemExit(9)
"""
    ended = await python(code)
    assert ended.outcome.exit_code == 9
    assert "ended" in ended.stdout
    assert "ended" in ended.stderr


async def test_a_cell_that_dies_ends_its_program_alone(
    client: docker.APIClient, workspace: Workspace, shell: Run
) -> None:
    await workspace.write_file("kept", b"kept")
    execution = await start_sleeping(workspace, "31111")
    [cell] = ours(client, "cell")
    client.kill(cell["Id"])
    assert (await execution.outcome()).reason is EndReason.SANDBOX_LOST
    assert (await shell("cat kept")).stdout == "kept"


async def test_a_cell_whose_agent_was_out_of_memory_says_so(shell: Run) -> None:
    """Where nothing in it is larger the kernel takes the agent."""
    command = """
echo 0 > /proc/self/oom_score_adj
for n in $(seq 20); do
    ({ head -c 6000000 /dev/zero; exec sleep 60; } | tail -c 6000000) &
done
wait
"""
    limits = LIMITS.__class__(memory_bytes=48 * MIB, processes=100)
    assert (await shell(command, limits)).outcome.reason is EndReason.OUT_OF_MEMORY


async def test_a_keeper_that_dies_takes_back_to_the_last_save(
    client: docker.APIClient, workspace: Workspace, shell: Run
) -> None:
    await workspace.write_file("saved", b"saved")
    await workspace.save()
    await workspace.write_file("unsaved", b"unsaved")
    execution = await start_sleeping(workspace, "32222")
    [keeper] = ours(client, "keeper")
    client.kill(keeper["Id"])
    assert (await execution.outcome()).reason is EndReason.SANDBOX_LOST
    assert (await shell("ls")).stdout == "saved\n"


async def test_idle_workspaces_are_closed_and_come_back(
    client: docker.APIClient, kind: str, tmp_path: Path
) -> None:
    backend = make_backend(kind, tmp_path, max_open_workspaces=2)
    await backend.start()
    try:
        for number in range(4):
            workspace = await backend.workspace(WorkspaceKey("t", f"conv_{number}"))
            await workspace.write_file("number", str(number).encode())
        async with asyncio.timeout(60):
            while len(ours(client, "keeper")) > 2:
                await asyncio.sleep(0.02)
        for number in range(4):
            workspace = await backend.workspace(WorkspaceKey("t", f"conv_{number}"))
            assert await workspace.read_file("number") == str(number).encode()
    finally:
        await backend.close()


async def test_workspaces_are_made_ahead_with_a_cell(
    client: docker.APIClient, kind: str, tmp_path: Path
) -> None:
    backend = make_backend(kind, tmp_path, warm_sandboxes=1)
    await backend.start()
    try:
        first = await backend.workspace(WorkspaceKey("t", "first"))
        await collect(first, ExecutionSpec(["/bin/true"], limits=LIMITS))
        async with asyncio.timeout(60):
            while not backend.warm_sandboxes:
                await asyncio.sleep(0.02)
        ahead = {each["Id"] for each in ours(client)}
        second = await backend.workspace(WorkspaceKey("t", "second"))
        execution = await start_sleeping(second, "35555")
        mounts = [each["Mounts"][0]["Name"] for each in ours(client) if each["Id"] in ahead]
        # Nobody else's: both containers of each workspace were there before it was opened.
        assert sorted(mounts.count(name) for name in set(mounts)) == [2, 2]
        running = [each for each in ours(client, "cell") if each["Id"] in ahead]
        tops = [client.top(each["Id"])["Processes"] for each in running]
        assert sum("sleep 35555" in " ".join(line) for top in tops for line in top) == 2
        execution.cancel()
        await execution.outcome()
    finally:
        await backend.close()
    assert ours(client) == []
    assert volumes(client) == []


async def test_nothing_is_left_of_a_closed_backend(
    client: docker.APIClient, kind: str, tmp_path: Path
) -> None:
    backend = make_backend(kind, tmp_path)
    await backend.start()
    execution = await start_sleeping(await backend.workspace(WorkspaceKey("t", "c")), "33333")
    await backend.close()
    assert (await execution.outcome()).reason is EndReason.CANCELLED
    assert ours(client) == []
    assert volumes(client) == []
    assert sleepers_become("33333", 0)


_SERVICE = """
import asyncio, pathlib, sys
sys.path.insert(0, {source!r})
from agentmesh_tool_runner.sandbox.model import ExecutionSpec, WorkspaceKey
from agentmesh_tool_runner.sandbox.docker.backend import DockerBackend
from agentmesh_tool_runner.sandbox.docker.options import DockerOptions

async def main():
    folder = pathlib.Path({folder!r})
    options = DockerOptions(folder, engine={engine!r}, image={image!r}, runtime="runc")
    backend = DockerBackend(options)
    await backend.start()
    workspace = await backend.workspace(WorkspaceKey("t", "conv"))
    command = "(setsid sleep 34444 &) ; echo running; exec sleep 34444"
    execution = await workspace.execute(ExecutionSpec(["/bin/sh", "-c", command]))
    await anext(execution.output())
    print("running", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_no_container_outlives_a_service_that_is_killed(
    client: docker.APIClient, kind: str, tmp_path: Path
) -> None:
    code = _SERVICE.format(
        source=str(SOURCE), folder=str(tmp_path), engine=engine.address(), image=engine.IMAGE
    )
    with start_service(code) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline() == "running\n"
            assert sleepers_become("34444", 2)
            os.kill(service.pid, signal.SIGKILL)
            assert sleepers_become("34444", 0)
            async with asyncio.timeout(60):
                while ours(client):
                    await asyncio.sleep(0.02)
        finally:
            service.kill()
    assert volumes(client)
    # What cannot go by itself the next service sweeps.
    backend = make_backend(kind, tmp_path)
    await backend.start()
    await backend.close()
    assert volumes(client) == []


async def test_what_living_services_have_is_not_swept(
    client: docker.APIClient, kind: str, tmp_path: Path, workspace: Workspace, shell: Run
) -> None:
    await shell("true")
    before = {each["Id"] for each in ours(client)}
    other = make_backend(kind, tmp_path / "other")
    await other.start()
    await other.close()
    assert {each["Id"] for each in ours(client)} == before
    assert (await shell("echo on")).stdout == "on\n"


async def test_workspaces_move_between_backends(
    kind: str, backend: DockerBackend, workspace: Workspace, shell: Run, tmp_path: Path
) -> None:
    """Both keep the same archives."""
    await shell("mkdir -p a; echo text > a/file; chmod 640 a/file; ln -s file a/link")
    await workspace.save()
    await backend.close()
    other = make_backend("bubblewrap", tmp_path)
    await other.start()
    try:
        moved = await other.workspace(workspace.key)
        spec = ExecutionSpec(["/bin/sh", "-c", "cat a/link; stat -c %a a/file"], limits=LIMITS)
        assert (await collect(moved, spec)).stdout == "text\n640\n"
    finally:
        await other.close()


def test_the_agent_needs_only_the_standard_library(kind: str) -> None:
    """It runs with -I -S on the Python of any image."""
    from agentmesh_tool_runner.sandbox.docker import container

    command = [sys.executable, *container.command("keeper")[1:]]
    # Loads everything, then finds no workspace here.
    done = subprocess.run(
        command, input=container.modules("keeper"), capture_output=True, check=False, env={}
    )
    assert b"/workspace" in done.stderr
