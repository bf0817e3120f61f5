"""How the processes of one execution are measured: by their control group, or by walking /proc."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from .cgroups import Group, GroupUsage
from .execution import Measured
from .model import ExecutionSpec

_SHORTEST_CHECK: Final = 0.01
_LONGEST_CHECK: Final = 3600.0
_FAMILY_CHECK: Final = 0.025
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_OWN: Final = ("RssAnon:", "RssShmem:")
_PART: Final = ("Pss_Anon:", "Pss_Shmem:")


class GroupMeter:
    """Exact: the kernel counts, and kills for memory by itself; only CPU time needs a look now and
    then.
    """

    counts_refusals = True

    def __init__(self, group: Group) -> None:
        self._group = group

    def inner_started(self, pid: int) -> None:
        pass

    def measure(self) -> Measured:
        usage = self._group.usage()
        return Measured(
            cpu_seconds=usage.cpu_seconds,
            peak_memory_bytes=usage.peak_memory_bytes,
            memory_kills=usage.memory_kills,
            refused_processes=usage.refused_processes,
        )

    def next_check(self, spec: ExecutionSpec, measured: Measured) -> float:
        left = spec.limits.cpu_seconds - (measured.cpu_seconds or 0.0)
        speed = min(spec.limits.cpus, float(os.cpu_count() or 1))
        return min(max(left / speed, _SHORTEST_CHECK), _LONGEST_CHECK)

    async def release(self) -> None:
        await asyncio.to_thread(self._remove)

    def _remove(self) -> None:
        self._group.kill()
        self._group.remove()


class ResidentMeter(GroupMeter):
    """The same for a group that ran other programs before: what those used is taken off."""

    def __init__(
        self, group: Group, before: GroupUsage, give_back: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(group)
        self._before = before
        self._give_back = give_back

    def measure(self) -> Measured:
        now, before = super().measure(), self._before
        cpu = None if now.cpu_seconds is None else now.cpu_seconds - (before.cpu_seconds or 0.0)
        return replace(
            now,
            cpu_seconds=cpu,
            memory_kills=now.memory_kills - before.memory_kills,
            refused_processes=now.refused_processes - before.refused_processes,
        )

    async def release(self) -> None:
        await self._give_back()


class FamilyMeter:
    """Where there is no control group: sums over the process tree every 25 ms.

    The sum is what the service acts on; what bounds a program between two looks is RLIMIT_AS times
    RLIMIT_NPROC, which the backend keeps within the machine's memory.
    """

    counts_refusals = False

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._root: int | None = None
        self._cpu = 0.0
        self._peak = 0

    def inner_started(self, pid: int) -> None:
        self._root = pid

    def measure(self) -> Measured:
        if self._root is None:
            return Measured()
        ticks = memory = 0
        family = _tree(self._root)
        for pid in family:
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])
                memory += _resident(pid)
        if memory > self._memory_bytes:
            memory = sum(_share(pid) for pid in family)
        self._cpu = max(self._cpu, ticks / _TICKS)
        self._peak = max(self._peak, memory)
        return Measured(
            cpu_seconds=self._cpu,
            peak_memory_bytes=self._peak or None,
            memory_exceeded=self._peak > self._memory_bytes,
        )

    def next_check(self, spec: ExecutionSpec, measured: Measured) -> float:
        return _FAMILY_CHECK

    async def release(self) -> None:
        pass


def _resident(pid: int) -> int:
    """Bytes of a process that are no file's; what it shares with others counts in full."""
    told = Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) * 1024 for line in told.splitlines() if line.startswith(_OWN))


def _share(pid: int) -> int:
    """The same, but of what several processes hold together only this one's part: dear to ask."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        with contextlib.suppress(OSError):
            return _resident(pid)
        return 0
    return sum(int(line.split()[1]) * 1024 for line in told.splitlines() if line.startswith(_PART))


def _tree(root: int) -> list[int]:
    """The process and all its descendants; orphans inside a pid namespace stay in it."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                todo.extend(int(child) for child in (thread / "children").read_text().split())
    return found
