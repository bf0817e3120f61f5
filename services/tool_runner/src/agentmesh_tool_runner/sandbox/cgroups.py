"""Control groups, versions 1 and 2, for bounding and killing all processes of one sandbox.

Layout: below the service's own group in each hierarchy stands one folder per service process,
`agentmesh-<pid>-<start time>`, and in it one folder per execution. The name tells a later service
process whether its owner still lives, so leftovers of a killed one can be swept.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import cgroup_files

_OWNER_FOLDER: Final = re.compile(r"agentmesh-(\d+)-(\d+)")
_V1_CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct", "freezer")
_V2_CONTROLLERS: Final = ("memory", "pids", "cpu")
_SERVICE_LEAF: Final = "agentmesh-service"
_CPU_PERIOD_MICROSECONDS: Final = 100_000


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy in which this process may make groups.

    `base` is the folder below which groups are made; `controllers` those that it can bound;
    `version` 1 or 2.
    """

    base: Path
    version: int
    controllers: frozenset[str]


@dataclass(frozen=True)
class GroupLimits:
    """Bounds of a group; CPU in seconds of CPU time per second."""

    memory_bytes: int
    processes: int
    cpus: float


@dataclass(frozen=True)
class GroupUsage:
    """Counters of a group; None where no hierarchy tells."""

    cpu_seconds: float | None
    peak_memory_bytes: int | None
    memory_kills: int
    refused_processes: int


def process_start_time(pid: int | str = "self") -> str:
    """Start time in clock ticks since boot: with the pid it names a process for good."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()[19]


def parse_mounts(mountinfo: str) -> list[tuple[str, str, int, frozenset[str]]]:
    """cgroup mounts as (root within the hierarchy, mount point, version, options)."""
    mounts = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            version = 2 if kind == "cgroup2" else 1
            mounts.append((fields[3], fields[4], version, frozenset(options.split(","))))
    return mounts


def parse_membership(text: str) -> dict[str, str]:
    """`/proc/self/cgroup` as controller name -> path; the v2 path under the empty name."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def locate(mountinfo: str, membership: str) -> list[tuple[Path, int, frozenset[str]]]:
    """Own group folders as (folder, version, v1 controllers), from the two proc files' texts."""
    paths = parse_membership(membership)
    found = []
    for root, mount_point, version, options in parse_mounts(mountinfo):
        if version == 2:
            names, own = frozenset[str](), paths.get("")
        else:
            names = options & frozenset(_V1_CONTROLLERS)
            own = next((paths[name] for name in sorted(names) if name in paths), None)
            if not names:
                continue
        if own is None or not (own + "/").startswith(root.rstrip("/") + "/"):
            continue
        below = own[len(root.rstrip("/")) :].strip("/")
        found.append((Path(mount_point) / below, version, names))
    return found


def discover(explicit: Path | None = None) -> list[Hierarchy]:
    """The hierarchies usable for sandboxes; empty where this process may make no group.

    `explicit` names a delegated v2 folder to use instead of the service's own group.
    """
    if explicit is not None:
        prepared = _prepare_v2(explicit)
        return [prepared] if prepared else []
    proc = Path("/proc/self")
    usable = []
    for folder, version, names in locate(
        (proc / "mountinfo").read_text(encoding="utf-8"),
        (proc / "cgroup").read_text(encoding="utf-8"),
    ):
        if not os.access(folder, os.W_OK):
            continue
        hierarchy = _prepare_v2(folder) if version == 2 else Hierarchy(folder, 1, names)
        if hierarchy:
            usable.append(hierarchy)
    return usable


def _prepare_v2(folder: Path) -> Hierarchy | None:
    """Enables the controllers for children of `folder`, leaving it first if need be.

    Version 2 lets a group either hold processes or pass controllers on. A group that holds only
    this service is ours to split; one that holds anybody else is left as it is.
    """
    try:
        available = frozenset((folder / "cgroup.controllers").read_text().split())
        wanted = available & frozenset(_V2_CONTROLLERS)
        enabled = frozenset((folder / "cgroup.subtree_control").read_text().split())
        if wanted - enabled:
            _leave_if_alone(folder)
            for controller in sorted(wanted - enabled):
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            enabled = frozenset((folder / "cgroup.subtree_control").read_text().split())
        return Hierarchy(folder, 2, wanted & enabled)
    except OSError:
        return None


def _leave_if_alone(folder: Path) -> None:
    members = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    if members != [os.getpid()]:
        return
    leaf = folder / _SERVICE_LEAF
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text(str(os.getpid()))


def sweep(hierarchies: Sequence[Hierarchy]) -> int:
    """Kills and removes the groups of service processes that are gone; returns how many there
    were.
    """
    swept = 0
    for hierarchy in hierarchies:
        for folder in sorted(hierarchy.base.glob("agentmesh-*-*")):
            match = _OWNER_FOLDER.fullmatch(folder.name)
            if match and not _is_alive(match[1], match[2]):
                swept += 1
                for group in (*(child for child in folder.iterdir() if child.is_dir()), folder):
                    cgroup_files.kill_all(group, hierarchy.version)
                    cgroup_files.remove_folder(group)
    return swept


def _is_alive(pid: str, start_time: str) -> bool:
    try:
        return process_start_time(pid) == start_time
    except OSError:
        return False


class Parent:
    """The folders of this service process, one per hierarchy; makes a group per execution."""

    def __init__(self, hierarchies: Sequence[Hierarchy]) -> None:
        self._hierarchies = tuple(hierarchies)
        self._name = f"agentmesh-{os.getpid()}-{process_start_time()}"
        self.controllers: frozenset[str] = frozenset().union(
            *(hierarchy.controllers for hierarchy in hierarchies)
        )

    @property
    def bounds_memory_and_processes(self) -> bool:
        return {"memory", "pids"} <= self.controllers

    def make(self) -> None:
        for hierarchy in self._hierarchies:
            folder = hierarchy.base / self._name
            folder.mkdir(exist_ok=True)
            if hierarchy.version == 2 and hierarchy.controllers:
                enable = " ".join(f"+{name}" for name in sorted(hierarchy.controllers))
                (folder / "cgroup.subtree_control").write_text(enable)

    def group(self, name: str, limits: GroupLimits) -> Group:
        """Makes a group with these limits. Raises OSError, leaving nothing behind."""
        folders = {hierarchy.base / self._name / name: hierarchy for hierarchy in self._hierarchies}
        group = Group(folders)
        try:
            for folder in folders:
                folder.mkdir()
            group.limit(limits)
        except OSError:
            group.remove()
            raise
        return group

    def remove(self) -> None:
        for hierarchy in self._hierarchies:
            cgroup_files.remove_folder(hierarchy.base / self._name)


def _limit_files(hierarchy: Hierarchy, limits: GroupLimits) -> list[tuple[str, str]]:
    memory, processes = str(limits.memory_bytes), str(limits.processes)
    quota = str(max(1000, int(limits.cpus * _CPU_PERIOD_MICROSECONDS)))
    period = str(_CPU_PERIOD_MICROSECONDS)
    if hierarchy.version == 2:
        files = {
            "memory": [("memory.max", memory), ("memory.swap.max", "0"), ("memory.oom.group", "1")],
            "pids": [("pids.max", processes)],
            "cpu": [("cpu.max", f"{quota} {period}")],
        }
    else:
        files = {
            # Memory may never exceed memory and swap together, whichever way it is changed.
            "memory": [
                ("memory.memsw.limit_in_bytes", "-1"),
                ("memory.limit_in_bytes", memory),
                ("memory.memsw.limit_in_bytes", memory),
            ],
            "pids": [("pids.max", processes)],
            "cpu": [("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota)],
        }
    return [
        file for name, entries in files.items() if name in hierarchy.controllers for file in entries
    ]


# Kernels built or booted without swap accounting have no such file, and then no swap either.
_OPTIONAL_FILES: Final = frozenset(
    {"memory.memsw.limit_in_bytes", "memory.swap.max", "memory.oom.group"}
)


def _write_limit(folder: Path, file: str, value: str) -> None:
    try:
        (folder / file).write_text(value)
    except FileNotFoundError:
        if file not in _OPTIONAL_FILES:
            raise


@dataclass
class _Counters:
    """What the hierarchies tell of one group; None for what none of them tells."""

    cpu: cgroup_files.Counter | None = None
    """Nanoseconds in version 1; in version 2 microseconds, among other things."""
    cpu_has_names: bool = False
    peak: cgroup_files.Counter | None = None
    memory: cgroup_files.Counter | None = None
    kills: cgroup_files.Counter | None = None
    refusals: cgroup_files.Counter | None = None

    @classmethod
    def of(cls, folders: Mapping[Path, Hierarchy]) -> _Counters:
        found = cls()
        for folder, hierarchy in folders.items():
            found._add(str(folder), hierarchy.version == 2, hierarchy.controllers)
        return found

    def _add(self, folder: str, unified: bool, names: frozenset[str]) -> None:
        def counter(file: str, *, clears: bool = False) -> cgroup_files.Counter:
            return cgroup_files.Counter(f"{folder}/{file}", clears=clears)

        if ("cpu" if unified else "cpuacct") in names:
            self.cpu = counter("cpu.stat" if unified else "cpuacct.usage")
            self.cpu_has_names = unified
        if "memory" in names:
            file = "memory.peak" if unified else "memory.max_usage_in_bytes"
            self.peak = counter(file, clears=not unified)
            self.memory = counter("memory.current" if unified else "memory.usage_in_bytes")
            self.kills = counter("memory.events" if unified else "memory.oom_control")
        if "pids" in names:
            self.refusals = counter("pids.events")

    def cpu_seconds(self) -> float | None:
        if self.cpu is None:
            return None
        if self.cpu_has_names:
            return self.cpu.named(b"usage_usec") / 1e6
        return (self.cpu.number() or 0) / 1e9

    def close(self) -> None:
        for counter in (self.cpu, self.peak, self.memory, self.kills, self.refusals):
            if counter is not None:
                counter.close()


class Group:
    """The group of one execution, over all hierarchies."""

    def __init__(self, folders: Mapping[Path, Hierarchy]) -> None:
        self._folders = folders
        self._counters = _Counters.of(folders)

    def limit(self, limits: GroupLimits) -> None:
        """Sets the bounds, higher or lower than before. Raises OSError."""
        for folder, hierarchy in self._folders.items():
            for file, value in _limit_files(hierarchy, limits):
                _write_limit(folder, file, value)

    @property
    def member_files(self) -> list[str]:
        """Files to which a process writes "0" to join."""
        return [str(folder / "cgroup.procs") for folder in self._folders]

    def usage(self) -> GroupUsage:
        """What its members have used so far, those that are dead included."""
        counters = self._counters
        return GroupUsage(
            counters.cpu_seconds(),
            counters.peak.number() if counters.peak else None,
            counters.kills.named(b"oom_kill") if counters.kills else 0,
            counters.refusals.named(b"max") if counters.refusals else 0,
        )

    def memory_in_use(self) -> int:
        """Bytes now, files in memory included; 0 where no hierarchy tells."""
        memory = self._counters.memory
        return (memory.number() if memory else None) or 0

    def forget_peak(self) -> bool:
        """Lets the peak of memory begin anew; False where the kernel cannot. Raises OSError."""
        peak = self._counters.peak
        if peak is None:
            return True
        if peak.clears:
            peak.clear()
        return peak.clears

    def kill(self) -> None:
        """Sends SIGKILL to every member, including those being forked meanwhile."""
        for folder, hierarchy in self._folders.items():
            if hierarchy.version == 2 and cgroup_files.kill_at_once(folder):
                return
        for folder, hierarchy in self._folders.items():
            cgroup_files.kill_all(folder, hierarchy.version)

    def remove(self) -> None:
        """Removes the folders, waiting for killed members to be gone."""
        counters, self._counters = self._counters, _Counters()
        counters.close()
        for folder in self._folders:
            cgroup_files.remove_folder(folder)
