"""File operations on a mounted workspace, safe against whatever the sandboxed code has laid there.

All functions block; call them from a worker thread. `root` is a descriptor of the workspace's root
directory, `uid` the owner of new files (None: the service's own user).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from . import beneath
from .backend import FileEntry, WorkspaceFullError
from .snapshot import walk

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def _room_is_bounded() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise WorkspaceFullError("the workspace is full") from error
        raise


def list_files(root: int, path: str, limit: int) -> list[FileEntry]:
    entries: list[FileEntry] = []
    for entry in walk(root, beneath.normalize(path)):
        if len(entries) == limit:
            break
        entries.append(entry.as_file_entry())
    return entries


def read_file(root: int, path: str, offset: int, limit: int) -> bytes:
    descriptor = _open_for_reading(root, path)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(offset)
        return file.read(limit)


def _open_for_reading(root: int, path: str) -> int:
    descriptor = beneath.open_beneath(root, path, os.O_RDONLY)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise beneath.UnsafePathError(f"{path!r} is not a regular file")


def write_file(root: int, path: str, data: bytes, *, append: bool, uid: int | None) -> None:
    parent, name = beneath.split(path)
    with _room_is_bounded():
        _make_parents(root, parent, uid)
        if append:
            _append(root, path, data, uid)
        else:
            _replace(root, parent, name, data, uid)


def _append(root: int, path: str, data: bytes, uid: int | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    descriptor = beneath.open_regular(root, path, flags, 0o644)
    with os.fdopen(descriptor, "ab") as file:
        _own(file.fileno(), uid)
        file.write(data)


def _replace(root: int, parent: str, name: str, data: bytes, uid: int | None) -> None:
    """Writes beside the file and renames: a reader sees the old content or the new."""
    temporary = f".{name[:200]}.writing"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with beneath.directory(root, parent) as folder:
        mode = _refuse_non_file(folder, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        try:
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
                _own(file.fileno(), uid)
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise


def _refuse_non_file(folder: int, name: str) -> int:
    """The mode for the new content; refuses to put a file over anything but a file."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0o644
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(mode):
        raise beneath.UnsafePathError(f"{name!r} is a link or a special file")
    return stat.S_IMODE(mode) & 0o777


def _make_parents(root: int, parent: str, uid: int | None) -> None:
    done = "."
    for part in parent.split("/"):
        if part == ".":
            continue
        with beneath.directory(root, done) as folder, contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=folder)
            if uid is not None:
                os.chown(part, uid, uid, dir_fd=folder, follow_symlinks=False)
        done = part if done == "." else f"{done}/{part}"


def _own(descriptor: int, uid: int | None) -> None:
    if uid is not None:
        os.fchown(descriptor, uid, uid)


def move(root: int, path: str, destination: str, *, uid: int | None) -> None:
    parent, name = beneath.split(path)
    new_parent, new_name = beneath.split(destination)
    with _room_is_bounded():
        _make_parents(root, new_parent, uid)
    with beneath.directory(root, parent) as old, beneath.directory(root, new_parent) as new:
        with contextlib.suppress(FileNotFoundError):
            os.stat(new_name, dir_fd=new, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination)
        os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)


def remove(root: int, path: str) -> None:
    parent, name = beneath.split(path)
    with beneath.directory(root, parent) as folder:
        _remove_entry(root, folder, name, f"{parent}/{name}")


def _remove_entry(root: int, folder: int, name: str, path: str) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    with beneath.directory(root, path) as inner:
        for child in os.listdir(inner):  # noqa: PTH208 - a descriptor, not a path
            _remove_entry(root, inner, child, f"{path}/{child}")
    os.rmdir(name, dir_fd=folder)
