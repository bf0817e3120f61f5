"""What is done with one control group by the files of its folder."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def kill_at_once(folder: Path) -> bool:
    """Kills a group of version 2 in one stroke; False if the kernel cannot."""
    try:
        (folder / "cgroup.kill").write_text("1")
    except OSError:  # before Linux 5.14 there is no such file
        return False
    return True


def kill_all(folder: Path, version: int) -> None:
    """Kills every process of a group, also those that fork meanwhile."""
    if version == 2 and kill_at_once(folder):
        return
    freezer = folder / ("cgroup.freeze" if version == 2 else "freezer.state")
    freeze, thaw = ("1", "0") if version == 2 else ("FROZEN", "THAWED")
    for _ in range(20):
        members = _members(folder)
        if not members:
            return
        # Frozen members cannot fork away from the loop; the kill reaches them when thawed.
        with contextlib.suppress(OSError):
            freezer.write_text(freeze)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            freezer.write_text(thaw)
        time.sleep(0.002)


def _members(folder: Path) -> list[int]:
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def remove_folder(folder: Path) -> None:
    """Removes an empty group; waits for the kernel to let go of its last process."""
    for _ in range(200):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.005)
        else:
            return


class Counter:
    """A small file of a group that is looked at several times for each execution.

    It is opened once, when it is first needed, and read from its beginning each time.
    """

    __slots__ = ("_descriptor", "_flags", "_path", "clears")

    def __init__(self, path: str, *, clears: bool = False) -> None:
        """`clears` says that it can begin anew."""
        self.clears = clears
        self._path = path
        self._flags = (os.O_RDWR if clears else os.O_RDONLY) | os.O_CLOEXEC
        self._descriptor = -1

    def _open(self) -> int:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, self._flags)
        return self._descriptor

    def number(self) -> int | None:
        """Its one number; None if it cannot be read or says "max"."""
        try:
            return int(os.pread(self._open(), 64, 0))
        except (OSError, ValueError):
            return None

    def named(self, name: bytes) -> int:
        """The number on the line of that name; 0 if there is none."""
        try:
            for line in os.pread(self._open(), 4096, 0).splitlines():
                word, _, value = line.partition(b" ")
                if word == name:
                    return int(value)
        except (OSError, ValueError):
            pass
        return 0

    def clear(self) -> None:
        """Lets it begin anew from 0. Raises OSError."""
        os.pwrite(self._open(), b"0", 0)

    def close(self) -> None:
        """Lets go of the file. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
