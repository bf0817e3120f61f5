"""A mounted workspace as the operations see it, and what a path below it may be."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agentmesh_tool_runner.sandbox import beneath
from agentmesh_tool_runner.sandbox.model import FileEntry, FileRules, WorkspaceFullError
from agentmesh_tool_runner.sandbox.snapshot import DRAFTS_FOLDER, Entry, readable

VERSIONS_FOLDER: Final = ".agentmesh-versions"
"""Where overwritten files are kept, at the top of the workspace."""
HIDDEN: Final = frozenset({VERSIONS_FOLDER, DRAFTS_FOLDER})
"""Left out of every listing; what is in them has no path of its own."""
_MAX_DEPTH: Final = 60
"""Less than a snapshot takes, for a version lies deeper than its file."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Tree:
    """`root` is a descriptor of the root directory."""

    root: int
    rules: FileRules

    def own(self, descriptor: int) -> None:
        """Gives an open file to the workspace's owner."""
        uid = self.rules.uid
        if uid is not None:
            os.fchown(descriptor, uid, uid)


def inside(path: str) -> str:
    """A path that a caller gave, `.` for the workspace itself. Raises UnsafePathError."""
    plain = beneath.native(path)
    parts = plain.split("/")
    if parts[0] in HIDDEN:
        raise beneath.UnsafePathError(f"{parts[0]} is the service's own folder")
    if len(parts) > _MAX_DEPTH:
        raise beneath.UnsafePathError(f"a path has at most {_MAX_DEPTH} parts")
    return plain


def parent_and_name(path: str) -> tuple[str, str]:
    """As `inside`, divided. Raises UnsafePathError for the workspace itself too."""
    return beneath.split(inside(path))


def look(root: int, plain: str) -> Entry:
    """The entry at a path that `inside` returned; a link is itself. Raises FileNotFoundError."""
    parent, _, name = plain.rpartition("/")
    with beneath.directory(root, parent or ".") as folder:
        return entry_at(folder, name, plain)


def entry_at(folder: int, name: str, plain: str) -> Entry:
    """The entry of that name in an open folder, named `plain`, whose modes bar nobody from it."""
    found = as_entry(os.stat(name, dir_fd=folder, follow_symlinks=False), plain)
    return readable(folder, found, name)


def as_entry(found: os.stat_result, plain: str) -> Entry:
    """What `os.stat` found at a path."""
    return Entry(
        path=plain,
        mode=found.st_mode,
        size=found.st_size,
        modified_ns=found.st_mtime_ns,
        changed_ns=found.st_ctime_ns,
        inode=found.st_ino,
    )


def as_file_entry(entry: Entry, sha256: bytes = b"") -> FileEntry:
    """For callers: its path as text."""
    size = entry.size if entry.kind == "file" else 0
    return FileEntry(
        beneath.shown(entry.path), entry.kind, size, entry.modified_ns / 1e9, etag(entry), sha256
    )


def etag(entry: Entry) -> str:
    """Another one after every change of a file that changes its size, time or inode."""
    return f"{entry.inode:x}-{entry.size:x}-{entry.modified_ns:x}"


def refuse_non_file(folder: int, name: str) -> os.stat_result | None:
    """What stands there now, None for nothing; refuses to put a file over anything but a file."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), beneath.shown(name))
    if not stat.S_ISREG(found.st_mode):
        raise beneath.UnsafePathError(f"{beneath.shown(name)!r} is a link or a special file")
    return found


def clear_the_way(tree: Tree, folder: str) -> None:
    """A program may have put something else in place of a folder of the service's own."""
    with contextlib.suppress(FileNotFoundError):
        if entry_at(tree.root, folder, folder).kind != "directory":
            os.unlink(folder, dir_fd=tree.root)


def make_folders(tree: Tree, plain: str) -> None:
    """Makes the folder and its parents, as far as they are not there."""
    done = "."
    for part in plain.split("/"):
        if part == ".":
            continue
        with beneath.directory(tree.root, done) as folder, contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=folder)
            if (uid := tree.rules.uid) is not None:
                os.chown(part, uid, uid, dir_fd=folder, follow_symlinks=False)
        done = part if done == "." else f"{done}/{part}"


def remove_entry(folder: int, name: str) -> None:
    """Removes what is there in an open folder, with all below.

    Folders below are moved up before they are emptied: a program can nest them deeper than paths,
    recursion and descriptors go. That needs no room in a full workspace.
    """
    if entry_at(folder, name, name).kind != "directory":
        os.unlink(name, dir_fd=folder)
        return
    waiting = [_move_up(folder, name, folder)]
    while waiting:
        highest = waiting.pop()
        with beneath.directory(folder, highest) as inner:
            for child in os.listdir(inner):  # noqa: PTH208 - a descriptor, not a path
                if entry_at(inner, child, child).kind == "directory":
                    waiting.append(_move_up(inner, child, folder))
                else:
                    os.unlink(child, dir_fd=inner)
        os.rmdir(highest, dir_fd=folder)


def _move_up(source: int, name: str, folder: int) -> str:
    passing = f".removing-{secrets.token_hex(16)}"
    os.rename(name, passing, src_dir_fd=source, dst_dir_fd=folder)
    return passing


@contextlib.contextmanager
def room_is_bounded() -> Iterator[None]:
    """Says as WorkspaceFullError that there is no more room, or no more files can be made."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise WorkspaceFullError("the workspace is full") from error
        raise
