"""The files of a workspace as plain data: looked at, read and laid, many at a time.

Operations as `reach` has them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from . import beneath
from .model import WorkspaceFullError
from .snapshot import DRAFTS_FOLDER, Entry, walk

_BLOCK: Final = 256 * 1024


@dataclass(frozen=True)
class Item:
    """Something to lay. `kind` is directory, file, link or hard; `target` is where links lead.

    A file may come in pieces: those after the first have an `offset`. Only the last one, which has
    `whole`, gives the file its mode and time.
    """

    path: str
    kind: str
    mode: int = 0o644
    modified_ns: int = 0
    data: bytes = b""
    offset: int = 0
    whole: bool = True
    target: str = ""


def look_at_all(root: int, max_bytes: int) -> list[Entry]:
    """Everything that can be kept, parents first.

    Raises WorkspaceFullError if the files, holes counted as bytes, exceed `max_bytes`.
    """
    entries = [e for e in walk(root, leave_out={DRAFTS_FOLDER}) if e.kind != "other"]
    if sum({e.inode: e.size for e in entries if e.kind == "file"}.values()) > max_bytes:
        raise WorkspaceFullError(f"the files, holes included, exceed {max_bytes} bytes")
    return entries


def read_all(root: int, paths: Sequence[str], most_bytes: int) -> list[bytes | None]:
    """What the first of these files hold: as many as have `most_bytes` together, at least one.

    None for what is no file any more, or larger than that by itself.
    """
    found: list[bytes | None] = []
    left = most_bytes
    for path in paths:
        data: bytes | None = None
        with contextlib.suppress(OSError, beneath.UnsafePathError):
            data = _whole(root, path, most_bytes)
        left -= len(data or b"")
        if found and left < 0:
            break
        found.append(data)
    return found


def _whole(root: int, path: str, most_bytes: int) -> bytes | None:
    with os.fdopen(beneath.open_regular(root, path, os.O_RDONLY), "rb") as file:
        data = file.read(most_bytes + 1)
    return data if len(data) <= most_bytes else None


def read_piece(root: int, path: str, offset: int, size: int) -> bytes:
    """Some of a file; nothing where it ends, and where it is none any more."""
    with (
        contextlib.suppress(OSError, beneath.UnsafePathError),
        os.fdopen(beneath.open_regular(root, path, os.O_RDONLY), "rb") as file,
    ):
        file.seek(offset)
        return file.read(size)
    return b""


def lay_all(root: int, uid: int | None, items: Sequence[Item]) -> None:
    """Lays items, owned by `uid` (None: as created), in place of what is there.

    Raises WorkspaceFullError where there is no room.
    """
    try:
        for item in items:
            _lay(root, uid, item)
    except OSError as error:
        raise WorkspaceFullError(f"the files do not fit the workspace: {error}") from error


def _lay(root: int, uid: int | None, item: Item) -> None:
    parent, name = beneath.split(item.path)
    with _made(root, uid, parent) as folder:
        if item.kind == "file" and item.offset:
            _write(folder, name, item, os.O_WRONLY)
            return
        if item.kind == "directory" and _is_directory(folder, name):
            return
        _clear(folder, name)
        if item.kind == "directory":
            os.mkdir(name, 0o700, dir_fd=folder)
        elif item.kind == "link":
            os.symlink(item.target, name, dir_fd=folder)
        elif item.kind == "hard":
            source_parent, source_name = beneath.split(item.target)
            with beneath.directory(root, source_parent) as source:
                os.link(source_name, name, src_dir_fd=source, dst_dir_fd=folder)
            return
        else:
            _write(folder, name, item, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        if uid is not None:
            os.chown(name, uid, uid, dir_fd=folder, follow_symlinks=False)


@contextlib.contextmanager
def _made(root: int, uid: int | None, path: str) -> Iterator[int]:
    """A folder, made with those above it where it is not there."""
    try:
        descriptor = beneath.open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        _lay(root, uid, Item(path, "directory"))
        descriptor = beneath.open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(folder: int, name: str, item: Item, flags: int) -> None:
    handle = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with os.fdopen(handle, "wb") as file:
        file.seek(item.offset)
        file.write(item.data)
        file.flush()
        if item.whole:
            os.fchmod(file.fileno(), item.mode & 0o777)
            os.utime(file.fileno(), ns=(item.modified_ns, item.modified_ns))


def finish_folders(root: int, folders: Sequence[Item]) -> None:
    """Modes and times of folders: last, for laying files needs the one and changes the other."""
    for item in sorted(folders, key=lambda item: item.path, reverse=True):
        with (
            contextlib.suppress(OSError, beneath.UnsafePathError),
            beneath.directory(root, item.path) as folder,
        ):
            os.fchmod(folder, item.mode & 0o777)
            os.utime(folder, ns=(item.modified_ns, item.modified_ns))


def remove_all(root: int, paths: Sequence[str]) -> None:
    """Removes these, the deepest first; folders only if nothing else is left in them."""
    for path in sorted(paths, key=lambda path: path.count("/"), reverse=True):
        with contextlib.suppress(OSError, beneath.UnsafePathError):
            parent, name = beneath.split(path)
            with beneath.directory(root, parent) as folder:
                if _is_directory(folder, name):
                    os.rmdir(name, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)


def _is_directory(folder: int, name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _clear(folder: int, name: str) -> None:
    """Makes room for something of another kind, or another file."""
    if _is_directory(folder, name):
        shutil.rmtree(name, dir_fd=folder)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
