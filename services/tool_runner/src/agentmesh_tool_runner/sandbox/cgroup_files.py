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


def read(file: str) -> bytes:
    """A small file in one piece; read several times for each execution, so without a detour."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def write(file: str, value: bytes) -> None:
    """A small value into a file of a group."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)


def number(file: str) -> int | None:
    """A file with one number; None if it cannot be read or says "max"."""
    try:
        return int(read(file))
    except (OSError, ValueError):
        return None


def keyed(file: str) -> dict[str, int]:
    """A file with a name and a number on each line; empty if it cannot be read."""
    try:
        pairs = (line.split() for line in read(file).decode().splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    except (OSError, ValueError):
        return {}
