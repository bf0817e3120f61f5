"""Processes of workers, wherever they have gone: each carries the mark of its worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

MARK: Final = "AGENTMESH_TOOL_WORKER"
"""Variable of a worker's environment, which its descendants inherit."""
_PAUSE_SECONDS: Final = 0.005
_PATIENCE_SECONDS: Final = 5.0


def kill_marked(is_wanted: Callable[[str], bool]) -> int:
    """Kills the processes whose mark is wanted; returns how many. Blocks until all are dead, or
    for some seconds where one cannot die."""
    killed: set[int] = set()
    patience = time.monotonic() + _PATIENCE_SECONDS
    while True:
        found = {pid for pid, mark in _marked() if is_wanted(mark)} - {os.getpid()}
        if not found or (found <= killed and time.monotonic() > patience):
            return len(killed)
        for pid in found - killed:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        time.sleep(_PAUSE_SECONDS)


def _marked() -> list[tuple[int, str]]:
    found = []
    prefix = f"{MARK}=".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        for variable in environment.split(b"\0"):
            if variable.startswith(prefix):
                found.append((int(folder.name), variable[len(prefix) :].decode(errors="replace")))
    return found
