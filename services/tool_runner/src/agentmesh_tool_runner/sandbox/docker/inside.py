"""What the agent does to its container: folders, processes, terminals. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import struct
import termios
from pathlib import Path
from typing import Any

INPUT = "/run/input"
WORKSPACE = "/workspace"
TEMPORARY = ("/tmp", "/dev/shm")  # noqa: S108 - inside
_FULL_BYTES = 16 * 1024


def lay_input(files: list[list[Any]], payload: bytes) -> bytes:
    """Lays the program's input files; returns the rest of the payload, its standard input."""
    position = 0
    Path(INPUT).chmod(0o755)
    for name, size in files:
        path = Path(f"{INPUT}/{name}")
        path.write_bytes(payload[position : position + size])
        path.chmod(0o555)
        position += size
    Path(INPUT).chmod(0o555)
    return payload[position:]


def kill_all() -> None:
    """Every process of the pid namespace but the agent, and those just being forked."""
    if os.getpid() == 1:
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)


def reap_all() -> None:
    """Waits until nothing is left."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def is_full() -> bool:
    """True if the workspace has no room for another file."""
    status = os.statvfs(WORKSPACE)
    no_more_files = status.f_files > 0 and status.f_ffree == 0
    return status.f_bavail * status.f_frsize < _FULL_BYTES or no_more_files


def empty(folder: str) -> bool:
    """Removes all that is in a folder; False if something stays."""
    try:
        for name in os.listdir(folder):  # noqa: PTH208 - long paths, and nothing else runs
            # A name of its own first: what a program nests deep may have the longest of paths.
            os.rename(f"{folder}/{name}", f"{folder}/.gone")  # noqa: PTH104
            remove(f"{folder}/.gone")
    except (OSError, RecursionError):
        return False
    return True


def remove(path: str) -> None:
    """Removes a file, or a folder with all below, whatever its modes say."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)  # noqa: PTH108
        return
    os.chmod(path, 0o700)  # noqa: PTH101
    for name in os.listdir(path):  # noqa: PTH208
        remove(f"{path}/{name}")
    os.rmdir(path)  # noqa: PTH106


def resize(terminal: int, rows: int, columns: int) -> None:
    """Tells a terminal its size; who runs in it gets SIGWINCH."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
