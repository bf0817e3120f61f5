"""Containers prove themselves or run nothing: weaker ones, missing parts, gVisor, a service."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.sandbox import seccomp, selftest
from agentmesh_tool_runner.sandbox.docker import flags
from agentmesh_tool_runner.sandbox.docker.backend import DockerBackend
from agentmesh_tool_runner.sandbox.docker.options import DockerOptions
from agentmesh_tool_runner.sandbox.model import (
    INPUT_DIRECTORY,
    ExecutionSpec,
    SandboxUnavailableError,
    WorkspaceKey,
)
from agentmesh_tool_runner.server import ToolRunner
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory

from ..conftest import Mesh, settings  # noqa: TID252 - the tests are one tree
from ..memory_store import MemoryStore  # noqa: TID252 - as above
from . import engine
from .conftest import LIMITS, collect, make_backend
from .engine import volumes

pytestmark = pytest.mark.parametrize("kind", ["docker"])


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
        monkeypatch.setattr(seccomp, "build_filter", lambda **_: b"")
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
    assert isinstance(backend, DockerBackend)
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
