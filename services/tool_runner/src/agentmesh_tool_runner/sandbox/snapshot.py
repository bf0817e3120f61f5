"""A workspace's files as one archive, and back. The archive is replaced as a whole or not at all.

The tree is read through its directory descriptor while hostile code may still change it: every
step goes through openat2, and what the archive may hold is bounded before it is written.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from . import beneath
from .model import WorkspaceFullError

DRAFTS_FOLDER: Final = ".agentmesh-drafts"
"""Where files are while they are uploaded, at the top of the workspace; never kept."""
_MAX_DEPTH: Final = 64
_MAX_PATH_BYTES: Final = 4000
_MAX_NAME_BYTES: Final = 255
_BLOCK: Final = 256 * 1024


@dataclass(frozen=True)
class Entry:
    """A file as the walk saw it; equal entries mean unchanged content."""

    path: str
    mode: int
    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    target: str = ""

    @property
    def kind(self) -> str:
        if stat.S_ISREG(self.mode):
            return "file"
        if stat.S_ISDIR(self.mode):
            return "directory"
        return "link" if stat.S_ISLNK(self.mode) else "other"


def walk(
    root: int,
    path: str = ".",
    depth: int = 0,
    *,
    recursive: bool = True,
    leave_out: Container[str] = (),
) -> Iterator[Entry]:
    """Everything below `path`, parents first, names sorted. What vanishes meanwhile is left out.

    So are the paths in `leave_out`, with all below them.

    Raises WorkspaceFullError when folders nest deeper than can be kept.
    """
    if depth > _MAX_DEPTH:
        raise WorkspaceFullError(f"folders nest deeper than {_MAX_DEPTH}")
    if len(os.fsencode(path)) > _MAX_PATH_BYTES - _MAX_NAME_BYTES:
        raise WorkspaceFullError(f"paths are longer than {_MAX_PATH_BYTES} bytes")
    with beneath.directory(root, path) as folder:
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - a descriptor, not a path
            with contextlib.suppress(FileNotFoundError, beneath.UnsafePathError):
                entry = readable(folder, _look(folder, name, path), name)
                if entry.path in leave_out:
                    continue
                yield entry
                if recursive and entry.kind == "directory":
                    yield from walk(root, entry.path, depth + 1, leave_out=leave_out)


def readable(folder: int, entry: Entry, name: str) -> Entry:
    """An ordinary user's service owns the files, yet their modes bind it: gives itself access."""
    needed = {"directory": 0o700, "file": 0o400}.get(entry.kind, 0)
    if os.geteuid() == 0 or entry.mode & needed == needed:
        return entry
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        # By way of the descriptor: by name, a link put there meanwhile would be followed.
        Path(f"/proc/self/fd/{handle}").chmod(stat.S_IMODE(os.fstat(handle).st_mode) | needed)
    finally:
        os.close(handle)
    return _look(folder, name, entry.path.rpartition("/")[0] or ".")


def _look(folder: int, name: str, parent: str) -> Entry:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    link = stat.S_ISLNK(found.st_mode)
    return Entry(
        path=name if parent == "." else f"{parent}/{name}",
        mode=found.st_mode,
        size=found.st_size,
        modified_ns=found.st_mtime_ns,
        changed_ns=found.st_ctime_ns,
        inode=found.st_ino,
        target=os.readlink(name, dir_fd=folder) if link else "",
    )


def save(root: int, archive: Path, *, max_bytes: int, before: list[Entry] | None) -> list[Entry]:
    """Writes the tree to `archive`; returns its entries, to pass as `before` the next time.

    Nothing is written if nothing changed since. Raises WorkspaceFullError if the files, holes
    counted as bytes, exceed `max_bytes`.
    """
    kept = walk(root, leave_out={DRAFTS_FOLDER})
    entries = [entry for entry in kept if entry.kind != "other"]
    if entries == before:
        return entries
    if sum({e.inode: e.size for e in entries if e.kind == "file"}.values()) > max_bytes:
        raise WorkspaceFullError(f"the files, holes included, exceed {max_bytes} bytes")
    archive.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=archive.parent, prefix=".saving-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                _write(root, entries, tar)
            file.flush()
            os.fdatasync(file.fileno())
        Path(temporary).replace(archive)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return entries


def _write(root: int, entries: list[Entry], tar: tarfile.TarFile) -> None:
    first_names: dict[int, str] = {}
    for entry in entries:
        info = tarfile.TarInfo(entry.path)
        info.mode = stat.S_IMODE(entry.mode) & 0o777
        info.mtime = entry.modified_ns / 1e9
        if entry.kind == "directory":
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        elif entry.kind == "link":
            info.type, info.linkname = tarfile.SYMTYPE, entry.target
            tar.addfile(info)
        elif entry.inode in first_names:
            info.type, info.linkname = tarfile.LNKTYPE, first_names[entry.inode]
            tar.addfile(info)
        else:
            with contextlib.suppress(FileNotFoundError, beneath.UnsafePathError):
                descriptor = beneath.open_regular(root, entry.path, os.O_RDONLY)
                with os.fdopen(descriptor, "rb") as file:
                    info.size = entry.size
                    tar.addfile(info, _ExactSize(file, entry.size))
                first_names[entry.inode] = entry.path


class _ExactSize(io.RawIOBase):
    """Gives as many bytes as announced although the file may shrink or grow while it is read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        self._left -= wanted
        return data + b"\0" * (wanted - len(data))


def restore(root: int, archive: Path, *, uid: int | None) -> list[Entry]:
    """Lays the archive's files below the empty directory `root`, owned by `uid` (None: as created).

    Returns the entries as `save` would. Raises WorkspaceFullError if the workspace is smaller than
    they are.
    """
    if archive.exists():
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            _lay_all(root, tar, uid)
    return [entry for entry in walk(root) if entry.kind != "other"]


def _lay_all(root: int, tar: tarfile.TarFile, uid: int | None) -> None:
    members = list(tar)
    try:
        for member in members:
            _lay(root, tar, member, uid)
    except OSError as error:
        raise WorkspaceFullError(f"the saved files do not fit the workspace: {error}") from error
    # Last, for laying a file changes its folder's time and may need its write permission.
    for member in reversed(members):
        if member.isdir():
            _finish_folder(root, member)


def _lay(root: int, tar: tarfile.TarFile, member: tarfile.TarInfo, uid: int | None) -> None:
    parent, name = beneath.split(member.name)
    with beneath.directory(root, parent) as folder:
        if member.isdir():
            os.mkdir(name, 0o700, dir_fd=folder)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=folder)
        elif member.islnk():
            link_parent, link_name = beneath.split(member.linkname)
            with beneath.directory(root, link_parent) as source:
                os.link(link_name, name, src_dir_fd=source, dst_dir_fd=folder)
        else:
            _lay_file(folder, name, tar, member)
        if uid is not None:
            os.chown(name, uid, uid, dir_fd=folder, follow_symlinks=False)


def _lay_file(folder: int, name: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    content = tar.extractfile(member)
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
        while content is not None and (block := content.read(_BLOCK)):
            file.write(block)
        file.flush()
        os.fchmod(file.fileno(), member.mode & 0o777)
        os.utime(file.fileno(), (member.mtime, member.mtime))


def _finish_folder(root: int, member: tarfile.TarInfo) -> None:
    with beneath.directory(root, member.name) as folder:
        os.fchmod(folder, member.mode & 0o777)
        os.utime(folder, (member.mtime, member.mtime))
