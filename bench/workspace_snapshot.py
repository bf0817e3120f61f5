"""What it takes to keep a large workspace in the store, and to lay it elsewhere.

Ours: a workspace of 5,000 files and 100 MiB becomes a generation in a store that is a process of
its own, and is laid in an empty workspace on a memory file system. Reference: `tar` of the same
files to the disk with fdatasync, and back. Beside that: the generation of a call that changed one
file of it, and of one that changed none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agentmesh_tool_runner.generations.capture import Captured, capture
from agentmesh_tool_runner.generations.laying import lay
from agentmesh_tool_runner.generations.manifest import NO_FILES
from agentmesh_tool_runner.generations.reading import Library
from agentmesh_tool_runner.generations.store_shelf import StoreShelf
from agentmesh_tool_runner.sandbox.mounted import Mounted, Place
from agentmesh_tool_runner.sandbox.reach import LocalReach
from meshkit.channels import MeshChannels
from meshkit.identity import Principal, principal_scope
from meshkit.settings import ServiceSettings
from meshkit.testkit import MeshProcess

from bench.harness.rounds import Target, interleave, report

FILES = 5_000
FILE_BYTES = 20 * 1024 + 480  # 100 MiB together
FOLDERS = 50
BOUND = 512 << 20
CALLER = Principal(subject="bench", tenant="bench", role=3)
TARGET = Target("at most", 4.0)
IN_MEMORY = "/dev/shm"  # noqa: S108 - a memory file system, as workspaces have


@asynccontextmanager
async def store(folder: Path) -> AsyncIterator[StoreShelf]:
    """The shelf of a store that is a process of its own."""
    command = [sys.executable, "-m", "agentmesh_conversation_store"]
    process = MeshProcess(command, folder / "store")
    await process.start()
    settings = ServiceSettings(data_dir=folder)
    channels = MeshChannels("tool_runner", settings)
    with principal_scope(CALLER):
        yield StoreShelf(channels.channel(process.grpc_address, "conversation_store"))
    await channels.close()
    await process.close()


def make_files(root: Path, mark: int) -> None:
    """The workspace: nothing of it is in the store yet."""
    for number in range(FILES):
        folder = root / f"folder_{number % FOLDERS}"
        folder.mkdir(exist_ok=True)
        (folder / f"file_{number}").write_bytes(os.urandom(FILE_BYTES))
    (root / "mark").write_text(str(mark))


@asynccontextmanager
async def workspace(name: str) -> AsyncIterator[tuple[Path, Mounted]]:
    """An empty one, on a memory file system."""
    root = Path(tempfile.mkdtemp(prefix=f"agentmesh-bench-{name}-", dir=IN_MEMORY))
    mounted = Mounted(Place(name, LocalReach(os.open(root, os.O_RDONLY)), None))
    try:
        yield root, mounted
    finally:
        mounted.files.close()
        shutil.rmtree(root)


class Snapshots:
    """Takes the times."""

    def __init__(self, shelf: StoreShelf, folder: Path) -> None:
        self._shelf = shelf
        self._folder = folder
        self._number = 0
        self.first: list[float] = []
        self.laid: list[float] = []
        self.one_file: list[float] = []
        self.one_file_bytes: list[int] = []
        self.nothing: list[float] = []

    async def ours(self) -> float:
        """Seconds to keep the whole workspace and to lay it elsewhere."""
        self._number += 1
        async with workspace("ours") as (root, mounted):
            await asyncio.to_thread(make_files, root, self._number)
            kept, took = await self._capture(mounted, None)
            self.first.append(took)
            await self._small_steps(root, mounted, kept)
            began = time.perf_counter()
            manifest = await Library().manifest(self._shelf, kept.manifest.digest)
            async with workspace("there") as (there, elsewhere):
                await lay(elsewhere, self._shelf, NO_FILES, {}, manifest, BOUND)
                laid = time.perf_counter() - began
                assert len(list(there.rglob("file_*"))) == FILES
            self.laid.append(laid)
        return took + laid

    async def _capture(self, mounted: Mounted, before: Captured | None) -> tuple[Captured, float]:
        began = time.perf_counter()
        manifest, seen = (before.manifest, before.seen) if before else (NO_FILES, {})
        name = f"bench/{self._number}"
        kept = await capture(mounted, self._shelf, name, manifest, seen, BOUND)
        return kept, time.perf_counter() - began

    async def _small_steps(self, root: Path, mounted: Mounted, kept: Captured) -> None:
        same, took = await self._capture(mounted, kept)
        assert same.manifest is kept.manifest
        self.nothing.append(took)
        await asyncio.to_thread((root / "folder_0/file_0").write_bytes, os.urandom(FILE_BYTES))
        changed, took = await self._capture(mounted, kept)
        assert changed.manifest is not kept.manifest
        self.one_file.append(took)
        self.one_file_bytes.append(changed.manifest.sizes[changed.manifest.digest])

    async def tar(self) -> float:
        """Seconds of `tar` to the disk and back."""
        async with workspace("tar") as (root, _), workspace("untar") as (there, _):
            await asyncio.to_thread(make_files, root, 0)
            archive = self._folder / "archive.tar"
            began = time.perf_counter()
            await _run("tar", "-C", str(root), "-cf", str(archive), ".")
            await asyncio.to_thread(_sync, archive)
            await _run("tar", "-C", str(there), "-xf", str(archive))
            return time.perf_counter() - began


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fdatasync(file.fileno())


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0


async def measure(rounds: int) -> None:
    """Takes the rounds and reports them."""
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as name:
        async with store(Path(name)) as shelf:
            snapshots = Snapshots(shelf, Path(name))
            taken = await interleave(snapshots.ours, snapshots.tar, rounds, "s")
    report(
        "workspace_snapshot",
        "s",
        taken,
        reference_name="tar to the disk and back",
        target=TARGET,
        more={
            "files": FILES,
            "mib": round(FILES * FILE_BYTES / (1 << 20)),
            "kept_s": round(statistics.median(snapshots.first), 2),
            "laid_s": round(statistics.median(snapshots.laid), 2),
            "one_file_changed_ms": round(1000 * statistics.median(snapshots.one_file), 1),
            "one_file_changed_kib": round(statistics.median(snapshots.one_file_bytes) / 1024),
            "nothing_changed_ms": round(1000 * statistics.median(snapshots.nothing), 1),
        },
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
