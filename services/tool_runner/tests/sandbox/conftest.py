"""Real sandboxes: every test runs with control groups where there are any, and without."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from agentmesh_tool_runner.sandbox.backend import (
    INPUT_DIRECTORY,
    MIB,
    ExecutionSpec,
    Limits,
    Outcome,
    SandboxUnavailableError,
    Stream,
    Workspace,
    WorkspaceKey,
)
from agentmesh_tool_runner.sandbox.bubblewrap import BubblewrapBackend, BubblewrapOptions

LIMITS = Limits(wall_seconds=60, cpu_seconds=30, memory_bytes=256 * MIB, processes=24)


@dataclass
class Result:
    """What a program did."""

    outcome: Outcome
    stdout: str
    stderr: str


Run = Callable[..., Awaitable[Result]]


@pytest.fixture(params=["control groups", "no control groups"])
async def backend(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[BubblewrapBackend]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    wants_groups = request.param == "control groups"
    options = BubblewrapOptions(
        data_folder=tmp_path, bwrap=shutil.which("bwrap") or "", use_cgroups=wants_groups
    )
    backend = BubblewrapBackend(options)
    try:
        await backend.start()
    except SandboxUnavailableError as error:
        pytest.skip(str(error))
    if wants_groups and not backend.uses_control_groups:
        await backend.close()
        pytest.skip(f"uid {os.geteuid()} can make no control group here")
    yield backend
    await backend.close()


@pytest.fixture
async def workspace(backend: BubblewrapBackend) -> Workspace:
    return await backend.workspace(WorkspaceKey("tenant", "conv_test"))


async def collect(workspace: Workspace, spec: ExecutionSpec) -> Result:
    execution = await workspace.execute(spec)
    output = {Stream.STDOUT: b"", Stream.STDERR: b""}
    async for piece in execution.output():
        output[piece.stream] += piece.data
    outcome = await execution.outcome()
    stdout, stderr = (output[stream].decode(errors="replace") for stream in Stream)
    return Result(outcome, stdout, stderr)


@pytest.fixture
def python(backend: BubblewrapBackend, workspace: Workspace) -> Run:
    """Runs Python code in the workspace."""

    async def run(code: str, limits: Limits = LIMITS, stdin: bytes = b"") -> Result:
        argv = [backend.python, f"{INPUT_DIRECTORY}/main.py"]
        spec = ExecutionSpec(argv, stdin=stdin, files={"main.py": code.encode()}, limits=limits)
        return await collect(workspace, spec)

    return run


@pytest.fixture
def shell(workspace: Workspace) -> Run:
    """Runs a shell command in the workspace."""

    async def run(command: str, limits: Limits = LIMITS) -> Result:
        return await collect(workspace, ExecutionSpec(["/bin/sh", "-c", command], limits=limits))

    return run


def read_host(path: Path | str) -> bytes:
    """A file of the host, as it is now."""
    return Path(path).read_bytes()


def saved_archives(folder: Path) -> list[Path]:
    """The archives of all workspaces below a data folder."""
    return sorted(folder.rglob("*.tar"))


def saved_mode(folder: Path, name: str) -> int:
    """The mode that the only archive keeps of a file."""
    [archive] = saved_archives(folder)
    with tarfile.open(archive) as saved:
        return saved.getmember(name).mode
