"""What only containers of a Docker engine have: keepers, cells, an agent, leftovers to sweep."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.sandbox import selftest
from agentmesh_tool_runner.sandbox.backend import (
    INPUT_DIRECTORY,
    MIB,
    EndReason,
    ExecutionSpec,
    SandboxUnavailableError,
    Workspace,
    WorkspaceKey,
)
from agentmesh_tool_runner.sandbox.docker import backend as docker_backend
from agentmesh_tool_runner.sandbox.docker import flags
from agentmesh_tool_runner.sandbox.docker.backend import DockerBackend
from agentmesh_tool_runner.sandbox.docker.options import DockerOptions
from agentmesh_tool_runner.server import ToolRunner
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory

from ..conftest import Mesh, settings  # noqa: TID252 - the tests are one tree
from ..memory_store import MemoryStore  # noqa: TID252 - as above
from . import engine
from .conftest import LIMITS, Run, collect, make_backend
from .test_lifecycle import SOURCE, start_service, wait_for, wait_until_gone

pytestmark = pytest.mark.parametrize("kind", ["docker"])


@pytest.fixture(scope="module")
def client() -> Iterator[docker.APIClient]:
    """An own view of the engine."""
    client = docker.APIClient(base_url=engine.address(), version="auto")
    yield client
    client.close()


def ours(client: docker.APIClient, role: str = "") -> list[dict[str, Any]]:
    label = f"{flags.ROLE_LABEL}={role}" if role else flags.ROLE_LABEL
    return list(client.containers(all=True, filters={"label": label}))


def volumes(client: docker.APIClient) -> list[str]:
    found = client.volumes(filters={"label": flags.OWNER_LABEL})
    return [volume["Name"] for volume in found["Volumes"] or []]


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
    seen = await shell("ls -A /tmp /dev/shm /run/input; ls /proc | grep -c '^[0-9]'")
    assert [cell["Id"] for cell in ours(client, "cell")] == first
    assert seen.stdout.split() == ["/dev/shm:", "/run/input:", "/tmp:", "4"]  # noqa: S108


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
    assert wait_for("33333", count=0)


_SERVICE = """
import asyncio, pathlib, sys
sys.path.insert(0, {source!r})
from agentmesh_tool_runner.sandbox.backend import ExecutionSpec, WorkspaceKey
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
    service = start_service(code)
    try:
        assert service.stdout is not None
        assert service.stdout.readline() == "running\n"
        assert wait_for("34444", count=2)
        os.kill(service.pid, signal.SIGKILL)
        assert wait_until_gone("34444")
        async with asyncio.timeout(60):
            while ours(client):
                await asyncio.sleep(0.02)
    finally:
        service.kill()
        service.wait()
        if service.stdout:
            service.stdout.close()
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


def _weaker(lock: str) -> Any:
    """The same containers with one lock less."""
    whole = flags.container_config

    def config(plan: flags.ContainerPlan) -> dict[str, Any]:
        made = whole(plan)
        host = made["HostConfig"]
        if lock == "network":
            made["NetworkDisabled"], host["NetworkMode"] = False, "host"
        elif lock == "pids":
            del host["PidsLimit"]
        elif lock == "memory":
            del host["Memory"], host["MemorySwap"]
        elif lock == "seccomp":
            host["SecurityOpt"] = ["no-new-privileges", "seccomp=unconfined"]
        elif lock == "user":
            made["User"] = "0:0"
        elif lock == "pid":
            host["PidMode"] = "host"
        return made

    return config


@pytest.mark.parametrize(
    ("lock", "broken"),
    [
        ("network", "network: interfaces"),
        ("pids", "process_limit"),
        ("seccomp", "system_calls"),
        ("user", "does not run in the sandbox"),
        ("pid", "puts a process before the agent"),
    ],
)
async def test_a_weaker_container_fails_the_self_test(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str, broken: str
) -> None:
    monkeypatch.setattr(
        "agentmesh_tool_runner.sandbox.docker.engine.container_config", _weaker(lock)
    )
    if lock == "seccomp":
        monkeypatch.setattr(docker_backend.seccomp, "build_filter", lambda **_: b"")
    backend = make_backend(kind, tmp_path)
    await backend.start()
    try:
        report = await selftest.run(backend)
    finally:
        await backend.close()
    assert not report.passed
    assert broken in report.remedy
    assert "\n" not in report.remedy


async def test_a_missing_image_says_how_to_make_it(kind: str, tmp_path: Path) -> None:
    options = DockerOptions(tmp_path, engine=engine.address(), image="not/there:1")
    with pytest.raises(SandboxUnavailableError, match=r"scripts/sandbox_image\.py"):
        await DockerBackend(options).start()


async def test_a_missing_engine_says_what_to_do(kind: str, tmp_path: Path) -> None:
    options = DockerOptions(tmp_path, engine=f"unix://{tmp_path}/no.sock")
    with pytest.raises(SandboxUnavailableError, match="set DOCKER_HOST"):
        await DockerBackend(options).start()


async def test_a_missing_runtime_says_which_there_are(kind: str, tmp_path: Path) -> None:
    options = DockerOptions(tmp_path, engine=engine.address(), image=engine.IMAGE, runtime="kata")
    with pytest.raises(SandboxUnavailableError, match=r"no runtime kata; it has .*runc"):
        await DockerBackend(options).start()


async def test_an_image_without_python_is_told(
    client: docker.APIClient, kind: str, tmp_path: Path
) -> None:
    archive = tmp_path / "empty.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    client.import_image_from_file(str(archive), repository="agentmesh/empty", tag="tests")
    options = DockerOptions(tmp_path, engine=engine.address(), image="agentmesh/empty:tests")
    backend = DockerBackend(options)
    await backend.start()
    try:
        report = await selftest.run(backend)
    finally:
        await backend.close()
    assert "python3" in report.remedy
    assert volumes(client) == []


@pytest.fixture
async def gvisor(kind: str, tmp_path: Path) -> AsyncIterator[DockerBackend]:
    backend = make_backend(kind, tmp_path, runtime=None)
    await backend.start()
    yield backend
    await backend.close()


async def test_gvisor_is_used_where_the_engine_has_it(gvisor: DockerBackend) -> None:
    report = await selftest.run(gvisor)
    assert report.passed, report.remedy
    assert "runsc" in report.capabilities[0].detail
    workspace = await gvisor.workspace(WorkspaceKey("tenant", "conv_test"))
    await workspace.write_file("in", b"from the service")
    spec = ExecutionSpec(["/bin/sh", "-c", "dmesg | head -c 400; cat in; echo out > out"])
    ended = await collect(workspace, spec)
    assert "from the service" in ended.stdout
    assert await workspace.read_file("out") == b"out\n"


async def test_under_gvisor_the_agent_is_another_user(gvisor: DockerBackend) -> None:
    """There a uid may open the descriptors of its processes, and kill the first."""
    code = """
import os, signal
for name in ("mem", "fd/0", "fd/1"):
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(f"/proc/1/{name}", flags))
            print("opened", name)
        except OSError:
            pass
try:
    os.kill(1, signal.SIGKILL)
except PermissionError:
    print("the agent goes on")
for line in open("/proc/self/status"):
    if line.startswith(("CapEff", "CapBnd")) and int(line.split()[1], 16):
        print(line)
try:
    os.setresuid(0, 0, 0)
except PermissionError:
    print("and stays another")
"""
    workspace = await gvisor.workspace(WorkspaceKey("tenant", "conv_test"))
    argv = [gvisor.python, f"{INPUT_DIRECTORY}/main.py"]
    spec = ExecutionSpec(argv, files={"main.py": code.encode()}, limits=LIMITS)
    ended = await collect(workspace, spec)
    assert ended.stdout == "the agent goes on\nand stays another\n"


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


async def test_a_service_that_runs_code_in_containers(
    kind: str,
    mesh_hosts: HostFactory,
    store_host: tuple[MemoryStore, ServiceHost],
    tmp_path: Path,
) -> None:
    """As an operator says it: AUTOGEN_CODE_EXECUTION and DOCKER_HOST."""
    store, host = store_host
    said = {"code_execution": "docker", "sandbox_engine": engine.address()}
    said |= {"sandbox_image": engine.IMAGE, "sandbox_runtime": "runc"}
    runner = ToolRunner(settings(tmp_path, host.grpc_address, **said))
    await runner.host.start()
    try:
        mesh = Mesh(runner, store, mesh_hosts.channels())
        items = await mesh.execute("print(6 * 7)")
        assert items[0].started.backend == kind
        assert b"".join(item.output.data for item in items) == b"42\n"
        await mesh.call("file_manager", action="write", path="data.txt", content="from a tool")
        called = await mesh.call("code_executor", code="print(open('data.txt').read())")
        assert "from a tool" in called.output
        answer = await mesh.stub.GetCapabilities(pb.GetCapabilitiesRequest(), metadata=mesh.user())
        assert answer.ready
        assert all(capability.enforced for capability in answer.capabilities)
        assert engine.IMAGE in answer.capabilities[0].detail
    finally:
        await runner.host.stop()


def test_the_agent_needs_only_the_standard_library(kind: str) -> None:
    """It runs with -I -S on the Python of any image."""
    from agentmesh_tool_runner.sandbox.docker import container

    command = [sys.executable, *container.command("keeper")[1:]]
    # Loads everything, then finds no workspace here.
    done = subprocess.run(
        command, input=container.modules("keeper"), capture_output=True, check=False, env={}
    )
    assert b"/workspace" in done.stderr
