"""Versions of what file operations overwrite or remove, kept in the workspace within a bound.

A version is `ID/PATH` below the versions folder, where ID is a time in nanoseconds, the number of
the path's parts, the size, and the beginning of the path's SHA-256. So versions are saved, restored
and forked with the files they belong to, the oldest come first, and keeping one is a rename or a
link, never a copy. Programs in the sandbox can change them, like the files themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agentmesh_tool_runner.sandbox import beneath
from agentmesh_tool_runner.sandbox.model import FileVersion, WorkspaceFullError
from agentmesh_tool_runner.sandbox.snapshot import walk

from .tree import (
    VERSIONS_FOLDER,
    Tree,
    clear_the_way,
    entry_at,
    inside,
    make_folders,
    remove_entry,
    room_is_bounded,
)

MAX_VERSIONS: Final = 200
_MAX_OF_ONE_PATH: Final = 10
_ID: Final = re.compile(
    r"(?P<time>\d{20})-(?P<parts>\d{1,2})-(?P<size>\d{1,18})-(?P<path>[0-9a-f]{8})", re.ASCII
)


@dataclass(frozen=True)
class Kept:
    """A version as it lies in the tree: `plain` was its path, `kind` as a FileEntry has it."""

    id: str
    plain: str
    kind: str
    size: int

    @property
    def at(self) -> str:
        """Where it lies now."""
        return f"{VERSIONS_FOLDER}/{self.id}/{self.plain}"

    @property
    def shown(self) -> FileVersion:
        """For callers."""
        path = beneath.shown(self.plain)
        return FileVersion(self.id, path, self.kind, self.size, int(self.id[:20]) / 1e9)


def list_versions(root: int, path: str = "") -> list[FileVersion]:
    """Versions of the file or folder at `path` and below it, or all; the latest first."""
    wanted = inside(path or ".")
    found = [kept.shown for kept in _all(root) if _is_below(kept.plain, wanted)]
    return found[::-1]


def _is_below(plain: str, wanted: str) -> bool:
    return wanted == "." or plain == wanted or plain.startswith(f"{wanted}/")


def find(tree: Tree, version_id: str) -> Kept:
    """Raises FileNotFoundError."""
    kept = _look(tree.root, version_id)
    if kept is None:
        raise FileNotFoundError(2, "no such version", version_id)
    return kept


def keep(tree: Tree, folder: int, name: str, plain: str, *, moves: bool) -> str:
    """Keeps what stands at `plain`, in the open folder; returns the version's id.

    `moves` takes it away from there; else it stays, to be replaced by a rename. Returns "" for what
    is larger than all versions together may be, and for links: these are not kept, nor taken away.
    """
    entry = entry_at(folder, name, plain)
    if entry.kind not in ("file", "directory"):
        return ""
    size = entry.size if entry.kind == "file" else _size(tree.root, plain)
    if size > tree.rules.version_bytes:
        return ""
    _make_room(tree, plain, size)
    parts = len(plain.split("/"))
    version_id = f"{time.time_ns():020d}-{parts}-{size}-{_digest(plain)}"
    at = f"{VERSIONS_FOLDER}/{version_id}/{plain}"
    with room_is_bounded():
        clear_the_way(tree, VERSIONS_FOLDER)
        make_folders(tree, at.rpartition("/")[0])
    with beneath.directory(tree.root, at.rpartition("/")[0]) as versions, room_is_bounded():
        if moves:
            os.rename(name, name, src_dir_fd=folder, dst_dir_fd=versions)
        else:
            os.link(name, name, src_dir_fd=folder, dst_dir_fd=versions, follow_symlinks=False)
    return version_id


def drop_oldest(tree: Tree) -> bool:
    """Gives room back; False if there is no version any more."""
    for name in _names(tree.root):
        drop(tree, name)
        return True
    return False


def drop(tree: Tree, version_id: str) -> None:
    """Forgets a version."""
    with (
        contextlib.suppress(FileNotFoundError),
        beneath.directory(tree.root, VERSIONS_FOLDER) as folder,
    ):
        remove_entry(folder, version_id)


def _make_room(tree: Tree, plain: str, size: int) -> None:
    """Drops the oldest versions, of all and of this path, until one more is within the bounds.

    Looks at names only, for there may be many versions and this is done at every write.
    """
    kept = [match for name in _names(tree.root) if (match := _ID.fullmatch(name))]
    room = tree.rules.version_bytes - size - sum(int(each["size"]) for each in kept)
    of_this = [each for each in kept if each["path"] == _digest(plain)]
    surplus = of_this[: max(0, len(of_this) + 1 - _MAX_OF_ONE_PATH)]
    left = len(kept)
    for each in [*surplus, *(each for each in kept if each not in surplus)]:
        if room >= 0 and left < MAX_VERSIONS and each not in surplus:
            return
        drop(tree, each[0])
        left -= 1
        room += int(each["size"])


def _digest(plain: str) -> str:
    return hashlib.sha256(os.fsencode(plain)).hexdigest()[:8]


def _names(root: int) -> list[str]:
    """None where there is no folder, or a program put something else in its place."""
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError, beneath.UnsafePathError),
        beneath.directory(root, VERSIONS_FOLDER) as folder,
    ):
        return sorted(os.listdir(folder))  # noqa: PTH208 - a descriptor, not a path
    return []


def _all(root: int) -> Iterator[Kept]:
    """The oldest first. What a program in the sandbox put there besides is left out."""
    for name in _names(root):
        if kept := _look(root, name):
            yield kept


def _look(root: int, version_id: str) -> Kept | None:
    match = _ID.fullmatch(version_id)
    if match is None:
        return None
    parts: list[str] = []
    at = f"{VERSIONS_FOLDER}/{version_id}"
    try:
        for _ in range(int(match["parts"])):
            with beneath.directory(root, at) as folder:
                (name,) = os.listdir(folder)  # noqa: PTH208 - a descriptor, not a path
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            parts.append(name)
            at = f"{at}/{name}"
    except (OSError, ValueError):
        return None
    if not parts:
        return None
    if stat.S_ISREG(found.st_mode):
        return Kept(version_id, "/".join(parts), "file", found.st_size)
    if stat.S_ISDIR(found.st_mode):
        return Kept(version_id, "/".join(parts), "directory", _size(root, at))
    return None


def _size(root: int, plain: str) -> int:
    try:
        return sum(entry.size for entry in walk(root, plain) if entry.kind == "file")
    except WorkspaceFullError:  # nests too deep to be kept
        return sys.maxsize
