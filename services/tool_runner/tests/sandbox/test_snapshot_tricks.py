"""Archives that were not made by this service: whatever they hold, nothing outside is touched."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agentmesh_tool_runner.sandbox import snapshot
from agentmesh_tool_runner.sandbox.beneath import UnsafePathError
from agentmesh_tool_runner.sandbox.model import WorkspaceFullError

Make = Callable[[tarfile.TarFile, Path], None]


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> Make:
    """Adds a member; a file has `size` bytes. "HOST" is the folder above the workspace."""

    def make(tar: tarfile.TarFile, host: Path) -> None:
        info = tarfile.TarInfo(name.replace("HOST", str(host)))
        info.type, info.size, info.mode = kind, size, 0o4777
        info.linkname = link.replace("HOST", str(host))
        info.devmajor, info.devminor = 1, 3
        tar.addfile(info, io.BytesIO(b"x" * size) if size else None)

    return make


TRICKS: dict[str, list[Make]] = {
    "climbs": [entry("../out", size=1)],
    "climbs in the middle": [entry("a", tarfile.DIRTYPE), entry("a/../../out", size=1)],
    "absolute": [entry("HOST/out", size=1)],
    "through a link": [entry("up", tarfile.SYMTYPE, ".."), entry("up/out", size=1)],
    "through an absolute link": [entry("t", tarfile.SYMTYPE, "HOST"), entry("t/out", size=1)],
    "hard link out": [entry("h", tarfile.LNKTYPE, "../secret")],
    "hard link by a link": [
        entry("up", tarfile.SYMTYPE, ".."),
        entry("h", tarfile.LNKTYPE, "up/secret"),
    ],
    "file as a folder": [entry("f", size=1), entry("f/x", size=1)],
    "duplicates": [entry("f", size=1), entry("f", size=1)],
    "a link, then a file of its name": [
        entry("f", tarfile.SYMTYPE, "../secret"),
        entry("f", size=1),
    ],
    "the folder itself": [entry(".", size=1)],
    "a very long name": [entry("n" * 300, size=1)],
}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "workspace").mkdir()
    descriptor = os.open(tmp_path / "workspace", os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def archive_of(folder: Path, members: list[Make]) -> Path:
    archive = folder / "archive.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for make in members:
            make(tar, folder)
    return archive


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_is_refused_and_nothing_outside_is_touched(
    name: str, root: int, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path, TRICKS[name])
    with pytest.raises((UnsafePathError, WorkspaceFullError)):
        snapshot.restore(root, archive, uid=None)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "archive.tar",
        "secret",
        "workspace",
    ]
    assert (tmp_path / "secret").read_text() == "secret"
    assert (tmp_path / "secret").stat().st_nlink == 1


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_become_empty_files(kind: bytes, root: int, tmp_path: Path) -> None:
    snapshot.restore(root, archive_of(tmp_path, [entry("null", kind)]), uid=None)
    made = tmp_path / "workspace/null"
    assert made.is_file()
    assert made.stat().st_size == 0


def test_setuid_bits_are_not_laid(root: int, tmp_path: Path) -> None:
    members = [entry("f", size=1), entry("d", tarfile.DIRTYPE)]
    snapshot.restore(root, archive_of(tmp_path, members), uid=None)
    modes = [(tmp_path / "workspace" / name).stat().st_mode & 0o7777 for name in ("f", "d")]
    assert modes == [0o777, 0o777]


def test_a_broken_archive_is_told(root: int, tmp_path: Path) -> None:
    archive = archive_of(tmp_path, [entry("f", size=100_000)])
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises((WorkspaceFullError, tarfile.ReadError)):
        snapshot.restore(root, archive, uid=None)
