"""How many connections a process can hold. Each is an open file, and so is much else."""

from __future__ import annotations

import contextlib
import resource

_ALL_ELSE = 256
"""Open files that are no connections of callers: databases, logs, channels to other services."""
_FEWEST = 16


def connections_that_fit(*wanted: int) -> tuple[int, ...]:
    """How many connections each door of this process may hold, at most what it `wanted`; 0 stays 0,
    which is no limit.

    Asks the system for as many open files as that takes. Where it does not give them, the doors
    share what is left beside `_ALL_ELSE`: a process without a file to open serves nobody, not even
    who is connected already.
    """
    total = sum(wanted)
    room = _room_for(total + _ALL_ELSE) - _ALL_ELSE
    if total <= room:
        return wanted
    return tuple(number and max(_FEWEST, room * number // total) for number in wanted)


def _room_for(files: int) -> int:
    """Raises the limit of open files if it is lower, as far as possible; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return files
    raised = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if raised > soft:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            return raised
    return soft
