"""Opening paths that untrusted code may have prepared: never outside, never through a link.

Uses `openat2` (Linux 5.6) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS and
RESOLVE_NO_XDEV, and never blocks on a FIFO that stands where a file should.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterator
from typing import Final

_SYS_OPENAT2 = 437  # the same on every machine
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08
_RESOLVE: Final = _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY

_MAX_PATH_BYTES: Final = 3072
_MAX_NAME_BYTES: Final = 255
_LAST_BYTE: Final = 0xFF
_SHOWN_BYTE: Final = 0xF000
_FIRST_SURROGATE: Final = 0xDC00  # os.fsdecode makes U+DC80 to U+DCFF of undecodable bytes

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class UnsafePathError(ValueError):
    """The path leaves the directory, passes a symbolic link, or is no plain file."""


def normalize(path: str) -> str:
    """A relative path in its plain form; `.` for the directory itself.

    Raises UnsafePathError for absolute paths, `..` that climbs out, and NUL.
    """
    if "\0" in path:
        raise UnsafePathError("a path holds no NUL character")
    if path.startswith("/"):
        raise UnsafePathError(f"{path!r} is absolute; give a path relative to the workspace")
    plain = os.path.normpath(path or ".")
    if plain == ".." or plain.startswith("../"):
        raise UnsafePathError(f"{path!r} leaves the workspace")
    if any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in plain.split("/")):
        raise UnsafePathError(f"a name has at most {_MAX_NAME_BYTES} bytes")
    return plain


def native(path: str) -> str:
    """The path that `shown` made of a name, as the operating system's functions take it.

    Raises UnsafePathError where it is no path of the workspace.
    """
    try:
        found = bytearray()
        for character in path:
            code = ord(character)
            byte = code - _SHOWN_BYTE
            found += bytes((byte,)) if 0 <= byte <= _LAST_BYTE else character.encode()
    except UnicodeEncodeError:
        raise UnsafePathError("a path is text: half of a surrogate pair is none") from None
    if len(found) > _MAX_PATH_BYTES:
        raise UnsafePathError(f"a path has at most {_MAX_PATH_BYTES} bytes")
    return normalize(os.fsdecode(bytes(found)))


def shown(path: str) -> str:
    """A name as text that every protocol can carry, and that `native` takes back.

    A byte that is no UTF-8 becomes the private-use character U+F000 plus its value; so do the bytes
    of a name's own characters of that range.
    """
    if path.isascii():
        return path
    text = []
    for character in path:
        code = ord(character)
        if _FIRST_SURROGATE <= code <= _FIRST_SURROGATE + _LAST_BYTE:
            text.append(chr(_SHOWN_BYTE + code - _FIRST_SURROGATE))
        elif _SHOWN_BYTE <= code <= _SHOWN_BYTE + _LAST_BYTE:
            text += [chr(_SHOWN_BYTE + byte) for byte in character.encode()]
        else:
            text.append(character)
    return "".join(text)


def open_beneath(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Opens `path` below the directory descriptor `root`; returns a descriptor.

    Raises UnsafePathError where the resolution rules refuse, OSError as `open` does otherwise.
    """
    plain = normalize(path)
    how = _OpenHow(flags | os.O_CLOEXEC | os.O_NONBLOCK, mode, _RESOLVE)
    result = _libc.syscall(
        _SYS_OPENAT2, root, os.fsencode(plain), ctypes.byref(how), ctypes.sizeof(how)
    )
    if result >= 0:
        return int(result)
    error = ctypes.get_errno()
    if error in _REFUSALS:
        raise UnsafePathError(f"{path!r} passes a symbolic link or leaves the workspace")
    raise OSError(error, os.strerror(error), path)


# ELOOP: a link on the way; EXDEV: out of the directory, or onto another mount.
_REFUSALS: Final = (40, 18)


@contextlib.contextmanager
def directory(root: int, path: str) -> Iterator[int]:
    """The directory at `path`, open while the block runs."""
    descriptor = open_beneath(root, path, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(root: int, path: str, flags: int, mode: int = 0) -> int:
    """As open_beneath, but refuses everything that is not a regular file."""
    descriptor = open_beneath(root, path, flags, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafePathError(f"{path!r} is not a regular file")
    return descriptor


def split(path: str) -> tuple[str, str]:
    """Parent and last component of a normalized path; the root itself has no last component."""
    parent, _, name = normalize(path).rpartition("/")
    if name in ("", "."):
        raise UnsafePathError("the workspace itself is not a file")
    return parent or ".", name
