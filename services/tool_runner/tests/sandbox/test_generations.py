"""States of workspaces by the hash of their content, made and laid on every backend."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from agentmesh_tool_runner.generations.capture import Captured, capture
from agentmesh_tool_runner.generations.laying import lay
from agentmesh_tool_runner.generations.manifest import (
    NO_FILES,
    BrokenManifestError,
    Change,
    Manifest,
    State,
    rebased,
)
from agentmesh_tool_runner.generations.reading import Library
from agentmesh_tool_runner.generations.shelf import Head, Shelf
from agentmesh_tool_runner.sandbox.backend import SandboxBackend
from agentmesh_tool_runner.sandbox.model import ExecutionSpec, WorkspaceKey

from .conftest import LIMITS, collect

BOUND = 64 << 20
MAKE = """
mkdir -p a/b empty; printf one > a/b/text; printf '#!/bin/sh' > run; chmod 755 run
ln -s a/b/text link; ln a/b/text hard; mkfifo pipe
head -c 3000000 /dev/urandom > large; printf one > same
"""
SHOW = """
find . ! -type p -printf '%M %p %l\\n' | sort; cat a/b/text same; sha256sum large a/b/text | sort
"""


class MemoryShelf(Shelf):
    """Blobs in memory."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.reads = 0

    async def head(self, key: WorkspaceKey) -> Head:
        raise NotImplementedError

    async def save(self, key: WorkspaceKey, change: Change, earlier: Sequence[Change]) -> State:
        raise NotImplementedError

    async def read(self, digest: str, offset: int = 0) -> AsyncIterator[bytes]:
        self.reads += 1
        data = self.blobs[digest][offset:]
        # Not where files begin or end.
        for at in range(0, len(data), 70_001):
            yield data[at : at + 70_001]

    async def write(self, chunks: Callable[[], AsyncIterator[bytes]], size: int) -> str:
        data = b"".join([chunk async for chunk in chunks()])
        assert len(data) == size
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def is_passing(self, error: Exception) -> bool:
        raise NotImplementedError


class Place:
    """A workspace, and what was made of it."""

    def __init__(self, backend: SandboxBackend, name: str, shelf: MemoryShelf) -> None:
        self._backend = backend
        self._key = WorkspaceKey("t", name)
        self._shelf = shelf
        self.kept = Captured(NO_FILES, {})

    async def shell(self, command: str) -> str:
        """What a shell in it prints."""
        workspace = await self._backend.workspace(self._key)
        spec = ExecutionSpec(["/bin/sh", "-ec", command], limits=LIMITS)
        ended = await collect(workspace, spec)
        assert ended.outcome.succeeded, ended
        return str(ended.stdout)

    async def keep(self) -> Manifest:
        """Makes a manifest of it."""
        async with self._backend.workspaces.use(self._key) as mounted:
            self.kept = await capture(
                mounted, self._shelf, "c", self.kept.manifest, self.kept.seen, BOUND
            )
        return self.kept.manifest

    async def bring(self, manifest: Manifest) -> None:
        """Makes it what a manifest says."""
        async with self._backend.workspaces.use(self._key) as mounted:
            seen = await lay(
                mounted, self._shelf, self.kept.manifest, self.kept.seen, manifest, BOUND
            )
        self.kept = Captured(manifest, seen)


@pytest.fixture
def shelf() -> MemoryShelf:
    return MemoryShelf()


async def test_a_state_is_laid_elsewhere_as_it_was(
    backend: SandboxBackend, shelf: MemoryShelf
) -> None:
    here, there = Place(backend, "conv_here", shelf), Place(backend, "conv_there", shelf)
    await here.shell(MAKE)
    first = await here.keep()
    assert await here.keep() is first, "nothing changed"
    assert len(shelf.blobs) == 2, "the large file is a blob of its own"
    await there.bring(await Library().manifest(shelf, first.digest))
    assert await there.shell(SHOW) == await here.shell(SHOW)
    assert await there.keep() is there.kept.manifest, "looking changed nothing"
    await there.shell("printf two >> a/b/text; rm -r empty large; mkdir run.d; mv run run.d")
    second = await there.keep()
    reads = shelf.reads
    await here.bring(second)
    assert shelf.reads - reads == 2, "what changed, and what moved"
    shown = "find . ! -type p | sort; cat hard run.d/run"
    assert await here.shell(shown) == await there.shell(shown)


async def test_what_changed_here_meanwhile_stays(
    backend: SandboxBackend, shelf: MemoryShelf
) -> None:
    here, there = Place(backend, "conv_here", shelf), Place(backend, "conv_there", shelf)
    await here.shell("mkdir d; printf 1 > d/both; printf 1 > d/theirs; printf 1 > gone")
    await there.bring(await here.keep())
    await there.shell("printf 2 > d/both; printf 2 > d/theirs; rm gone; printf 2 > d/new")
    after = await there.keep()
    await here.shell("printf mine > d/both; printf mine > d/mine")
    await here.bring(after)
    shown = await here.shell("cd d; for f in *; do printf '%s=%s ' $f $(cat $f); done; ls ..")
    assert shown == "both=mine mine=mine new=2 theirs=2 d\n"
    merged = await here.keep()
    assert merged.records.keys() == {"d", "d/both", "d/mine", "d/new", "d/theirs"}


async def test_bytes_that_are_not_those_that_were_kept_are_refused(
    backend: SandboxBackend, shelf: MemoryShelf
) -> None:
    here, there = Place(backend, "conv_here", shelf), Place(backend, "conv_there", shelf)
    await here.shell("printf secret > file")
    manifest = await here.keep()
    data = shelf.blobs[manifest.digest]
    shelf.blobs[manifest.digest] = data.replace(b"secret", b"forged")
    with pytest.raises(BrokenManifestError, match="file is not what was kept"):
        await there.bring(manifest)
    shelf.blobs[manifest.digest] = data[:20]
    with pytest.raises(BrokenManifestError):
        await Library().manifest(shelf, manifest.digest)


async def test_a_change_is_done_to_an_earlier_state_alone(
    backend: SandboxBackend, shelf: MemoryShelf
) -> None:
    place = Place(backend, "conv_here", shelf)
    await place.shell("mkdir d; printf 1 > d/old; printf 1 > changed; printf 1 > linked")
    earlier = await place.keep()
    await place.shell("printf turn > d/turn; printf turn > changed")
    before = await place.keep()
    await place.shell("mkdir p; printf person > p/data; rm d/old; ln linked hard")
    after = await place.keep()
    records = rebased(earlier, before, after)
    assert sorted(records) == ["changed", "d", "hard", "linked", "p", "p/data"]
    assert records["changed"].sha256 == earlier.records["changed"].sha256
    assert records["linked"].kind != "hard" or records["hard"].kind != "hard"
