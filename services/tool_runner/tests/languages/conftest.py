"""One backend for all tests of a file, the best that this machine has, and programs on it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from agentmesh_tool_runner.languages import (
    CompileCache,
    Language,
    LanguageNotInstalledError,
    Program,
    Programs,
    Toolchains,
)
from agentmesh_tool_runner.sandbox.backend import Execution, SandboxBackend, Workspace
from agentmesh_tool_runner.sandbox.bubblewrap import BubblewrapBackend, BubblewrapOptions
from agentmesh_tool_runner.sandbox.model import MIB, Limits, WorkspaceKey
from agentmesh_tool_runner.sandbox.options import LocalOptions
from agentmesh_tool_runner.sandbox.sandlock import SandlockBackend

from services.tool_runner.tests.results import Result, result_of

# So little that no compiler can do its work: a program that runs all the same was kept.
STARVED = Limits(memory_bytes=4 * MIB)
MAXIMUM = Limits(
    wall_seconds=600,
    cpu_seconds=600,
    cpus=2,
    memory_bytes=1024 * MIB,
    processes=256,
    output_bytes=64 * MIB,
    temporary_bytes=256 * MIB,
)


@dataclass
class Bench:
    """Starts programs on a backend, with a cache that others may share."""

    backend: SandboxBackend
    folder: Path
    toolchains: Toolchains
    compile_limits: Limits = field(default_factory=Limits)
    cache_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        self.cache = CompileCache(self.folder, self.cache_bytes)
        self.programs = Programs(
            lambda: self.backend, self.toolchains, self.cache, compile_limits=self.compile_limits
        )

    def starved(self) -> Bench:
        """One that can run what is kept, and compile nothing."""
        return Bench(self.backend, self.folder, self.toolchains, STARVED)

    @property
    def kept(self) -> list[Path]:
        """The files of compiled programs."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    async def workspace(self, tenant: str = "acme") -> Workspace:
        """That of one conversation."""
        return await self.backend.workspace(WorkspaceKey(tenant, "conv_1"))

    async def start(self, program: Program, tenant: str = "acme") -> Execution:
        """Skips the test where the language is not there."""
        try:
            return await self.programs.start(await self.workspace(tenant), program)
        except LanguageNotInstalledError as error:
            pytest.skip(str(error))

    async def run(self, program: Program, tenant: str = "acme") -> Result:
        """To its end."""
        return await result_of(await self.start(program, tenant))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SandboxBackend]:
    folder = tmp_path_factory.mktemp("data")
    bwrap = shutil.which("bwrap")
    backend = (
        BubblewrapBackend(BubblewrapOptions(folder, bwrap=bwrap, maximum=MAXIMUM))
        if bwrap
        else SandlockBackend(LocalOptions(folder, maximum=MAXIMUM))
    )
    await backend.start()
    yield backend
    await backend.close()


@pytest.fixture(scope="module")
def toolchains(backend: SandboxBackend) -> Toolchains:
    return Toolchains(lambda: backend)


@pytest.fixture
def bench(backend: SandboxBackend, toolchains: Toolchains, tmp_path: Path) -> Bench:
    return Bench(backend, tmp_path / "compiled", toolchains)


COMPILED = (
    Language.TYPESCRIPT,
    Language.JAVA,
    Language.C,
    Language.CPP,
    Language.GO,
    Language.RUST,
)
