"""What a container has used, as seen from inside. Standard library only."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

_GROUPS = "/sys/fs/cgroup"


class Counters:
    """What the container's control group, or else the kernel's own accounts, say."""

    def __init__(self) -> None:
        unified = Path(f"{_GROUPS}/cgroup.controllers").exists()
        memory = _GROUPS if unified else f"{_GROUPS}/memory"
        self._cpu = f"{_GROUPS}/cpu.stat" if unified else f"{_GROUPS}/cpuacct/cpuacct.usage"
        self._peak = f"{memory}/memory.peak" if unified else f"{memory}/memory.max_usage_in_bytes"
        self._stat = f"{memory}/memory.stat"
        self._held = ("anon", "shmem") if unified else ("total_rss", "total_shmem")
        self._kills = f"{memory}/memory.{'events' if unified else 'oom_control'}"
        self._refusals = f"{_GROUPS}/pids.events" if unified else f"{_GROUPS}/pids/pids.events"
        self.exact = Path(self._kills).exists() and Path(self._refusals).exists()

    def read(self) -> dict[str, float]:
        """All of them since the container began; bytes and seconds."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "cpu": self._cpu_seconds(used.ru_utime + used.ru_stime),
            "peak": _number(self._peak) or used.ru_maxrss * 1024,
            "kills": _keyed(self._kills).get("oom_kill", 0),
            "refusals": _keyed(self._refusals).get("max", 0),
        }

    def held(self) -> int:
        """Bytes of memory that nothing but an end gives back: anonymous pages, temporary files."""
        stat = _keyed(self._stat)
        return sum(stat.get(name, 0) for name in self._held)

    def _cpu_seconds(self, reaped: float) -> float:
        if told := _keyed(self._cpu).get("usage_usec"):
            return told / 1e6
        if told := _number(self._cpu):
            return told / 1e9
        return reaped + sum(_cpu_of(pid) for pid in processes())


def _number(file: str) -> int | None:
    try:
        return int(Path(file).read_text())
    except (OSError, ValueError):
        return None


def _keyed(file: str) -> dict[str, int]:
    try:
        pairs = (line.split() for line in Path(file).read_text().splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    except (OSError, ValueError):
        return {}


def processes() -> list[int]:
    own = os.getpid()
    return [int(n) for n in os.listdir("/proc") if n.isdigit() and int(n) != own]  # noqa: PTH208


def _cpu_of(pid: int) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return 0.0
