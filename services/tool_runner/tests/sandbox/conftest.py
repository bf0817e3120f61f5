"""Real sandboxes of every backend this machine has, with control groups and without."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agentmesh_tool_runner.sandbox.backend import SandboxBackend, Workspace
from agentmesh_tool_runner.sandbox.bubblewrap import BubblewrapBackend, BubblewrapOptions
from agentmesh_tool_runner.sandbox.docker.backend import DockerBackend
from agentmesh_tool_runner.sandbox.docker.options import DockerOptions
from agentmesh_tool_runner.sandbox.local import LocalBackend
from agentmesh_tool_runner.sandbox.model import (
    INPUT_DIRECTORY,
    MIB,
    ExecutionSpec,
    Limits,
    SandboxUnavailableError,
    WorkspaceKey,
)
from agentmesh_tool_runner.sandbox.options import LocalOptions
from agentmesh_tool_runner.sandbox.sandlock import SandlockBackend, landlock_version

from ..results import Result, result_of  # noqa: TID252 - the tests are one tree
from . import engine

if TYPE_CHECKING:
    import docker

WITHOUT_GROUPS = "no control groups"
LIMITS = Limits(wall_seconds=60, cpu_seconds=30, memory_bytes=256 * MIB, processes=24)

AnyBackend = LocalBackend | DockerBackend
FOR_LOCAL = {"local_backend", "local_kind"}
"""Fixtures of tests about what only backends of this machine have: launcher, own groups."""


Run = Callable[..., Awaitable[Result]]


def kinds() -> list[str]:
    """The backends that this machine can have; each is tested, and none that it cannot have."""
    found = ["bubblewrap"] if shutil.which("bwrap") else []
    found += ["sandlock"] if landlock_version() >= 6 else []
    return found + (["docker"] if engine.is_to_be_had() else [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what is about a backend that this machine cannot have."""
    items[:] = [item for item in items if _is_to_run(item)]


def _is_to_run(item: pytest.Item) -> bool:
    if not item.path.is_relative_to(Path(__file__).parent) or not hasattr(item, "callspec"):
        return True
    given = item.callspec.params
    if given.get("kind") == "docker":
        # Its control groups are the engine's: there is no going without.
        fixtures = set(getattr(item, "fixturenames", ()))
        if "gvisor" in fixtures and shutil.which("runsc") is None:
            return False
        return not FOR_LOCAL & fixtures and given.get("backend") != WITHOUT_GROUPS
    return given.get("kind") in (None, *kinds())


def make_backend(kind: str, folder: Path, **options: Any) -> AnyBackend:
    """A backend that is not started, with its data below the folder."""
    if kind == "docker":
        values: dict[str, Any] = {"image": engine.IMAGE, "runtime": "runc", "warm_sandboxes": 0}
        values |= {"engine": options.get("engine") or engine.address()}
        return DockerBackend(DockerOptions(data_folder=folder, **(values | options)))
    return make_local_backend(kind, folder, **options)


def make_local_backend(kind: str, folder: Path, **options: Any) -> LocalBackend:
    """The same, of a backend that the launcher starts."""
    options = {"warm_sandboxes": 1} | options
    if kind == "sandlock":
        return SandlockBackend(LocalOptions(data_folder=folder, **options))
    bwrap = shutil.which("bwrap") or ""
    return BubblewrapBackend(BubblewrapOptions(data_folder=folder, bwrap=bwrap, **options))


@pytest.fixture(params=kinds())
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["control groups", WITHOUT_GROUPS])
async def backend(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> AsyncIterator[AnyBackend]:
    wants_groups = request.param == "control groups"
    backend = make_backend(kind, tmp_path, use_cgroups=wants_groups)
    try:
        await backend.start()
    except SandboxUnavailableError as error:
        pytest.skip(str(error))
    groups = not isinstance(backend, LocalBackend) or backend.uses_control_groups
    if wants_groups and not groups:
        await backend.close()
        pytest.skip(f"uid {os.geteuid()} can make no control group here")
    yield backend
    await backend.close()


@pytest.fixture
def local_kind(kind: str) -> str:
    """One of those that the launcher starts."""
    return kind


@pytest.fixture
def local_backend(backend: AnyBackend) -> LocalBackend:
    """One that the launcher starts."""
    assert isinstance(backend, LocalBackend)
    return backend


@pytest.fixture
async def workspace(backend: SandboxBackend) -> Workspace:
    return await backend.workspace(WorkspaceKey("tenant", "conv_test"))


async def collect(workspace: Workspace, spec: ExecutionSpec) -> Result:
    return await result_of(await workspace.execute(spec))


@pytest.fixture
def python(backend: SandboxBackend, workspace: Workspace) -> Run:
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


@pytest.fixture(scope="session")
def client() -> Iterator[docker.APIClient]:
    """An own view of the engine."""
    import docker

    client = docker.APIClient(base_url=engine.address(), version="auto")
    yield client
    client.close()
