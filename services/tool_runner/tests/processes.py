"""Processes of this machine, found by their arguments."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATIENCE = 60.0


def processes(wanted: Callable[[Sequence[bytes]], bool]) -> list[int]:
    """Ids of those whose arguments are such; the last one is empty."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        # It may end while it is looked at.
        with contextlib.suppress(OSError):
            if wanted((folder / "cmdline").read_bytes().split(b"\0")):
                found.append(int(folder.name))
    return found


def sleepers(seconds: str) -> list[int]:
    """Ids of those that `sleep` for so many seconds, which no others do."""
    return processes(lambda arguments: arguments[:2] == [b"sleep", seconds.encode()])


def sleepers_become(seconds: str, count: int) -> bool:
    """Waits until there are so many of them; False if that never is."""
    end = time.monotonic() + PATIENCE
    while len(sleepers(seconds)) != count:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
