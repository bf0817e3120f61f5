"""Where control groups are found and what is written to them, on the texts that kernels give."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from agentmesh_tool_runner.sandbox import cgroups
from agentmesh_tool_runner.sandbox.family import plan_family_bound
from agentmesh_tool_runner.sandbox.launcher_client import LauncherLostError
from agentmesh_tool_runner.sandbox.model import MIB, Limits, SandboxUnavailableError
from agentmesh_tool_runner.sandbox.spares import Spares

V1 = """\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
22 20 0:20 / /proc rw - proc proc rw
"""
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
CONTAINER = "30 23 0:26 /docker/abc /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n"


def test_version_1_with_joined_controllers() -> None:
    membership = "4:memory:/user/me\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/user.slice\n"
    assert cgroups.locate(V1, membership) == [
        (Path("/sys/fs/cgroup/memory/user/me"), 1, frozenset({"memory"})),
        (Path("/sys/fs/cgroup/cpu,cpuacct"), 1, frozenset({"cpu", "cpuacct"})),
        (Path("/sys/fs/cgroup/unified/user.slice"), 2, frozenset()),
    ]


def test_version_2_and_a_container_that_sees_a_part() -> None:
    assert cgroups.locate(V2, "0::/system.slice/mesh.service\n") == [
        (Path("/sys/fs/cgroup/system.slice/mesh.service"), 2, frozenset())
    ]
    assert cgroups.locate(CONTAINER, "0::/docker/abc/worker\n") == [
        (Path("/sys/fs/cgroup/worker"), 2, frozenset())
    ]
    assert cgroups.locate(CONTAINER, "0::/elsewhere\n") == []


def delegated(folder: Path, members: str) -> Path:
    """A version 2 group as a delegation leaves it, in plain files."""
    folder.mkdir()
    (folder / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (folder / "cgroup.subtree_control").write_text("")
    (folder / "cgroup.procs").write_text(members)
    return folder


def test_delegated_group_is_left_for_a_leaf_and_its_controllers_passed_on(tmp_path: Path) -> None:
    folder = delegated(tmp_path / "service", f"{os.getpid()}\n")
    cgroups.discover(folder)
    assert (folder / "agentmesh-service/cgroup.procs").read_text() == str(os.getpid())
    assert (folder / "cgroup.subtree_control").read_text().startswith("+")


def test_group_that_others_live_in_is_left_alone(tmp_path: Path) -> None:
    folder = delegated(tmp_path / "session", f"{os.getpid()}\n1\n")
    cgroups.discover(folder)
    assert not (folder / "agentmesh-service").exists()


def open_below(folder: Path) -> list[str]:
    """The files of a folder that this process holds open."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            names.append(str(descriptor.readlink()))
    return [name for name in names if name.startswith(f"{folder}/")]


def test_limits_of_version_2(tmp_path: Path) -> None:
    hierarchy = cgroups.Hierarchy(tmp_path, 2, frozenset({"memory", "pids", "cpu"}))
    parent = cgroups.Parent([hierarchy])
    assert parent.bounds_memory_and_processes
    parent.make()
    [own] = tmp_path.iterdir()
    assert set((own / "cgroup.subtree_control").read_text().split()) == {"+cpu", "+memory", "+pids"}
    group = parent.group("one", cgroups.GroupLimits(64 * MIB, 10, 0.5))
    written = {file.name: file.read_text() for file in (own / "one").iterdir()}
    assert written["memory.max"] == str(64 * MIB)
    assert written["memory.swap.max"] == "0"
    assert written["memory.oom.group"] == "1"
    assert written["pids.max"] == "10"
    assert written["cpu.max"] == "50000 100000"
    assert group.member_files == [str(own / "one/cgroup.procs")]
    (own / "one/memory.events").write_text("low 0\noom 2\noom_kill 3\n")
    (own / "one/pids.events").write_text("max 7\n")
    (own / "one/cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (own / "one/memory.peak").write_text("4096\n")
    assert group.usage() == cgroups.GroupUsage(1.5, 4096, 3, 7)
    (own / "one/pids.events").write_text("max 8\n")
    assert group.usage().refused_processes == 8
    assert not group.forget_peak()
    assert open_below(own), "it keeps its counters open"
    group.remove()
    assert not open_below(own)


def test_counters_of_version_1(tmp_path: Path) -> None:
    names = frozenset({"memory", "pids", "cpuacct"})
    parent = cgroups.Parent([cgroups.Hierarchy(tmp_path, 1, names)])
    parent.make()
    group = parent.group("one", cgroups.GroupLimits(64 * MIB, 10, 0.5))
    [folder] = (own / "one" for own in tmp_path.iterdir())
    (folder / "cpuacct.usage").write_text("1500000000\n")
    (folder / "memory.max_usage_in_bytes").write_text("4096\n")
    (folder / "memory.usage_in_bytes").write_text("2048\n")
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (folder / "pids.events").write_text("max 7\n")
    assert group.usage() == cgroups.GroupUsage(1.5, 4096, 3, 7)
    assert group.memory_in_use() == 2048
    assert group.forget_peak()
    assert (folder / "memory.max_usage_in_bytes").read_text().startswith("0")


def test_a_hierarchy_without_memory_does_not_do() -> None:
    hierarchy = cgroups.Hierarchy(Path("/nowhere"), 2, frozenset({"pids", "cpu"}))
    assert not cgroups.Parent([hierarchy]).bounds_memory_and_processes


def test_product_of_limits_stays_within_the_machine() -> None:
    machine = 16 * 1024 * MIB
    bound = plan_family_bound(8, machine)
    product = bound.for_limits(Limits())
    assert product.address_space * product.processes * bound.sandboxes <= machine / 2
    assert product.processes >= 6


def test_a_machine_too_small_is_refused() -> None:
    with pytest.raises(SandboxUnavailableError, match="delegate a cgroup"):
        plan_family_bound(8, 1024 * MIB)


class Refusing:
    """A launcher that starts nothing."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def keep_spare(self, name: str, member_files: list[str]) -> None:
        raise self.error


@pytest.mark.parametrize("error", [OSError("no"), LauncherLostError("gone"), ValueError("defect")])
async def test_a_spare_that_cannot_be_made_leaves_no_group(error: Exception) -> None:
    parent = cgroups.Parent(cgroups.discover())
    if not parent.bounds_memory_and_processes:
        pytest.skip("no control groups")
    parent.make()

    async def launcher() -> Any:
        return Refusing(error)

    try:
        expected = (
            pytest.raises(ValueError, match="defect")
            if isinstance(error, ValueError)
            else contextlib.nullcontext()
        )
        with expected:
            await Spares(parent, launcher, lambda: "left-behind").fill()
        left = parent.group("left-behind", cgroups.GroupLimits(64 * MIB, 10, 0.5))
        left.remove()
    finally:
        parent.remove()
