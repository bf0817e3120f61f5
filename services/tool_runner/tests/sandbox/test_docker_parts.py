"""The parts of the Docker backend that need no engine: frames, plain data, flags, profile."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agentmesh_tool_runner.sandbox import beneath, seccomp, snapshot
from agentmesh_tool_runner.sandbox.docker import codec, container, engine, flags
from agentmesh_tool_runner.sandbox.docker.backend import DockerBackend
from agentmesh_tool_runner.sandbox.docker.frames import PREFIX, Frames, frame
from agentmesh_tool_runner.sandbox.docker.options import DockerOptions
from agentmesh_tool_runner.sandbox.docker.profile import profile
from agentmesh_tool_runner.sandbox.files import reading, writing
from agentmesh_tool_runner.sandbox.files.organising import OrganiseBy
from agentmesh_tool_runner.sandbox.model import MIB, FileRules, WorkspaceFullError
from agentmesh_tool_runner.sandbox.mounted import Mounted, Place
from agentmesh_tool_runner.sandbox.reach import LocalReach

SHAPE = flags.Shape(64 * MIB, 8, 0.5, 16 * MIB, 100)


@dataclass
class Foreign:
    """A record of nobody that workspaces have to do with."""


def plan(**changes: Any) -> flags.ContainerPlan:
    values: dict[str, Any] = {
        "name": "n",
        "role": "cell",
        "image": "i",
        "command": ("python3",),
        "owner": "o",
        "volume": "v",
        "uid": 7000,
        "shape": SHAPE,
        "seccomp": "{}",
    }
    return flags.ContainerPlan(**(values | changes))


def test_frames_are_whole_however_they_come_in_pieces() -> None:
    sent: list[tuple[dict[str, Any], bytes]]
    sent = [({"a": 1}, b""), ({"b": "é"}, bytes(range(256))), ({}, b"x" * 1000)]
    stream = b"".join(frame(header, payload) for header, payload in sent)
    for size in (1, 7, 64, len(stream)):
        frames, got = Frames(), []
        for start in range(0, len(stream), size):
            got += frames.feed(stream[start : start + size])
        assert got == sent


@pytest.mark.parametrize(
    "data", [PREFIX.pack(1 << 31, 0), PREFIX.pack(2, 1 << 31), PREFIX.pack(2, 0) + b"[]"]
)
def test_what_can_be_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"too long|no object"):
        Frames().feed(data)


def call(root: int, operation: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation as it goes to a keeper and comes back, by way of JSON."""
    header, payload = codec.request(operation, args, kwargs)
    answer, blobs = codec.perform(root, json.loads(json.dumps(header)), payload)
    return codec.result(json.loads(json.dumps(answer)), blobs)


def test_operations_go_there_and_back_as_plain_data(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    rules = FileRules(None, MIB)
    try:
        data = bytes(range(256)) * 10
        call(root, writing.write_file, rules, "a/b", data, append=False)
        assert call(root, reading.stat_file, "a/b") == reading.stat_file(root, "a/b")
        assert call(root, reading.read_file, "a/b", 256, 512) == data[256:768]
        assert call(root, reading.list_files, ".", 10) == reading.list_files(root, ".", 10)
        with pytest.raises(beneath.UnsafePathError, match="leaves the workspace"):
            call(root, reading.read_file, "../x", 0, 1)
        with pytest.raises(FileNotFoundError) as missing:
            call(root, reading.read_file, "nothing", 0, 1)
        assert missing.value.errno == errno.ENOENT
    finally:
        os.close(root)


def test_choices_and_records_stay_what_they_are() -> None:
    entry = snapshot.Entry("p", 0o100644, 1, 2, 3, 4)
    blobs: list[bytes] = []
    packed = codec.pack([next(iter(OrganiseBy)), entry, {"k": b"one"}, b"two"], blobs)
    assert codec.unpack(json.loads(json.dumps(packed)), b"".join(blobs)) == [
        next(iter(OrganiseBy)),
        entry,
        {"k": b"one"},
        b"two",
    ]
    assert isinstance(codec.unpack(packed, b"")[0], OrganiseBy)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("email.headerregistry", "Address"),
        (flags.ContainerPlan.__module__.replace("agentmesh_tool_runner", "other"), "Shape"),
        (__name__, "Foreign"),
        ("agentmesh_tool_runner.sandbox.snapshot", "restore"),
        ("agentmesh_tool_runner.sandbox.not_loaded", "Thing"),
    ],
)
def test_what_comes_out_makes_records_and_nothing_else(module: str, name: str) -> None:
    with pytest.raises((TypeError, KeyError)):
        codec.unpack({"record": name, "module": module, "fields": []}, b"")


def test_errors_come_back_as_what_they_were_or_as_no_more_than_errors() -> None:
    module = WorkspaceFullError.__module__
    with pytest.raises(WorkspaceFullError, match="no room"):
        codec.result({"error": "WorkspaceFullError", "module": module, "text": "no room"}, b"")
    with pytest.raises(RuntimeError, match="text"):
        codec.result({"error": "PermissionError", "module": "builtins", "text": "text"}, b"")


def test_a_keeper_is_asked_for_operations_of_the_package_alone() -> None:
    header, payload = codec.request(os.listdir, [], {})
    with pytest.raises(ValueError, match="posix"):
        codec.perform(0, header, payload)


@pytest.mark.parametrize("machine", sorted(seccomp.MACHINES))
def test_the_profile_allows_what_the_filter_allows(machine: str) -> None:
    told = json.loads(profile(machine))
    allowed = [rule for rule in told["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
    names = {name for rule in allowed for name in rule["names"]}
    assert names == set(seccomp.MACHINES[machine].numbers)
    assert not names & {"ptrace", "mount", "unshare", "setns", "bpf", "keyctl", "clone3"}
    assert told["defaultAction"] == "SCMP_ACT_ERRNO"
    for rule in allowed:
        if {"clone", "socket", "personality", "socketpair"} & set(rule["names"]):
            assert rule["args"]


def test_a_profile_for_an_unknown_machine_is_refused() -> None:
    with pytest.raises(seccomp.UnsupportedMachineError):
        profile("pdp11")


def test_linux_cells_have_no_capability_and_gvisor_ones_those_of_its_own_kernel() -> None:
    plain = flags.container_config(plan())
    assert plain["User"] == "7000:7000"
    assert plain["HostConfig"]["CapAdd"] == []
    assert plain["HostConfig"]["PidsLimit"] == SHAPE.processes + 1
    under = flags.container_config(plan(runtime="runsc-kvm"))
    assert under["User"] == "0:0"
    assert "SYS_ADMIN" not in under["HostConfig"]["CapAdd"]
    assert under["HostConfig"]["Runtime"] == "runsc-kvm"
    assert under["HostConfig"]["CapDrop"] == plain["HostConfig"]["CapDrop"] == ["ALL"]


def test_the_agent_fits_an_argument_of_the_container() -> None:
    assert flags.container_config(plan(command=container.command("cell")))
    with pytest.raises(ValueError, match="too long"):
        flags.container_config(plan(command=("python3", "-c", "x" * 200_000)))


def test_owners_are_dead_if_they_were_of_this_machine_and_are_gone() -> None:
    own = engine.this_process()
    machine, pid, start = own.split("/")
    assert not engine.is_dead(own)
    assert engine.is_dead(f"{machine}/{pid}/{int(start) - 1}")
    assert engine.is_dead(f"{machine}/{2**22 + 1}/1")
    assert not engine.is_dead(f"another/{2**22 + 1}/1")
    assert not engine.is_dead("nonsense")


class Cleaning:
    """A cell that is not done with the program before."""

    shape = SHAPE
    closed = False

    def take(self) -> bool:
        return True

    async def idle(self) -> bool:
        await asyncio.Event().wait()
        return True

    async def close(self) -> None:
        self.closed = True


async def test_a_caller_that_leaves_takes_no_cell_along(tmp_path: Path) -> None:
    backend = DockerBackend(DockerOptions(data_folder=tmp_path))
    cell: Any = Cleaning()
    backend._cells["place"].append(cell)
    mounted: Any = Mounted(Place("place", LocalReach(-1), None))
    waiting = asyncio.create_task(backend._cell(mounted, SHAPE))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await backend._until_settled()
    assert cell.closed
    assert not backend._cells["place"]
