"""Files while they are written: without a path until they are complete, then there at once.

A draft that is left lies in a folder of its own that no listing shows and no snapshot keeps.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from typing import Final

from agentmesh_tool_runner.sandbox import beneath
from agentmesh_tool_runner.sandbox.model import FileEntry, FileRules, WorkspaceFullError
from agentmesh_tool_runner.sandbox.snapshot import DRAFTS_FOLDER

from . import versions
from .tree import (
    Tree,
    as_file_entry,
    clear_the_way,
    entry_at,
    inside,
    make_folders,
    parent_and_name,
    refuse_non_file,
    room_is_bounded,
)

_NAME: Final = re.compile(r"[0-9a-f]{32}")
_ATTEMPTS: Final = 10


def new_name() -> str:
    """For a draft."""
    return secrets.token_hex(16)


def open_draft(root: int, rules: FileRules, name: str, path: str) -> None:
    """Begins a file that is to become `path`.

    Refuses early what `put_draft` would refuse at the end: a folder, a file as a parent, a link.
    """
    tree = Tree(root, rules)
    parent, target = parent_and_name(path)
    with contextlib.suppress(FileNotFoundError), beneath.directory(root, parent) as folder:
        refuse_non_file(folder, target)
    _path(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    clear_the_way(tree, DRAFTS_FOLDER)
    for _ in range(_ATTEMPTS):
        # Whoever drops the last draft removes the folder: perhaps right now.
        with contextlib.suppress(FileNotFoundError), room_is_bounded():
            make_folders(tree, DRAFTS_FOLDER)
            with beneath.directory(root, DRAFTS_FOLDER) as folder:
                descriptor = os.open(name, flags, 0o600, dir_fd=folder)
            tree.own(descriptor)
            os.close(descriptor)
            return
    raise FileNotFoundError(errno.ENOENT, "the folder of drafts vanishes", path)


def write_draft(root: int, rules: FileRules, name: str, offset: int, data: bytes) -> None:
    """Writes a piece. Raises WorkspaceFullError once no version can be dropped to make room."""
    descriptor = beneath.open_regular(root, _path(name), os.O_WRONLY)
    try:
        left = memoryview(data)
        while left:
            try:
                with room_is_bounded():
                    written = os.pwrite(descriptor, left, offset)
            except WorkspaceFullError:
                if not versions.drop_oldest(Tree(root, rules)):
                    raise
            else:
                left, offset = left[written:], offset + written
    finally:
        os.close(descriptor)


def put_draft(
    root: int,
    rules: FileRules,
    name: str,
    path: str,
    *,
    replace_existing: bool = True,
    etag: str = "",
    mode: int | None = None,
) -> FileEntry:
    """Gives the file its path, at once. What it replaces is kept as a version.

    Raises FileExistsError unless it may replace another file; OSError with ESTALE if `etag` is not
    that of the file it replaces. The draft is gone in any case.
    """
    tree = Tree(root, rules)
    parent, target = parent_and_name(path)
    try:
        with room_is_bounded():
            make_folders(tree, parent)
        with (
            beneath.directory(root, parent) as folder,
            beneath.directory(root, DRAFTS_FOLDER) as own,
        ):
            present = refuse_non_file(folder, target)
            if present is not None and not replace_existing:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            now = "" if present is None else as_file_entry(entry_at(folder, target, target)).etag
            if etag and etag != now:
                raise OSError(errno.ESTALE, "it is another file now", path)
            if mode is None:
                mode = 0o644 if present is None else stat.S_IMODE(present.st_mode) & 0o777
            _set_mode(own, name, mode)
            if present is not None:
                versions.keep(tree, folder, target, inside(path), moves=False)
            os.rename(name, target, src_dir_fd=own, dst_dir_fd=folder)
            return as_file_entry(entry_at(folder, target, inside(path)))
    finally:
        drop_draft(root, name)


def _set_mode(folder: int, name: str, mode: int) -> None:
    descriptor = beneath.open_regular(folder, name, os.O_WRONLY)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def drop_draft(root: int, name: str) -> None:
    """Forgets a draft, if it is there, and the folder with the last one."""
    _path(name)
    with contextlib.suppress(OSError, beneath.UnsafePathError):
        with (
            contextlib.suppress(FileNotFoundError),
            beneath.directory(root, DRAFTS_FOLDER) as folder,
        ):
            os.unlink(name, dir_fd=folder)
        os.rmdir(DRAFTS_FOLDER, dir_fd=root)


def _path(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise beneath.UnsafePathError("no draft has such a name")
    return f"{DRAFTS_FOLDER}/{name}"
