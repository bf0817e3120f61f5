"""The known holes of a plain bubblewrap profile, looked at from outside; tests/abuse tries them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from agentmesh_tool_runner.sandbox import launcher, seccomp
from agentmesh_tool_runner.sandbox.backend import SandboxBackend, Workspace
from agentmesh_tool_runner.sandbox.beneath import UnsafePathError
from agentmesh_tool_runner.sandbox.local import LocalBackend
from agentmesh_tool_runner.sandbox.model import ExecutionSpec, WorkspaceKey

from .conftest import LIMITS, Run, collect, read_host, saved_mode


def seen_by_launcher(backend: LocalBackend, name: str) -> list[Path]:
    """Files of that name in the mounted workspaces, which only the launcher's namespace shows."""
    return sorted(Path(f"/proc/{backend.launcher_pid}/root/mnt").glob(f"workspace-*/{name}"))


# Bubblewrap's first process can be looked into: it holds nothing, and is under the same filter.
@pytest.mark.parametrize("kind", ["sandlock"])
async def test_the_first_process_cannot_be_looked_into(python: Run) -> None:
    code = """
import os
for path in ("/proc/1/mem", "/proc/1/maps", "/proc/1/fd/0", "/proc/1/root/workspace"):
    try:
        os.close(os.open(path, os.O_RDONLY))
        print("opened", path)
    except OSError as error:
        print(error)
"""
    ended = await python(code)
    assert ended.outcome.succeeded
    assert "opened" not in ended.stdout


@pytest.mark.parametrize("kind", ["sandlock"])
async def test_landlock_refuses_what_the_mounts_would_allow(python: Run) -> None:
    code = """
for path in ("/proc/self/comm", "/proc/self/oom_score_adj", "/proc/self/coredump_filter"):
    try:
        open(path, "w").close()
        print("opened", path)
    except PermissionError:
        print("refused")
"""
    assert (await python(code)).stdout == "refused\n" * 3


async def test_the_launcher_holds_no_environment_either(local_backend: LocalBackend) -> None:
    assert read_host(f"/proc/{local_backend.launcher_pid}/environ") == b""


async def test_files_belong_to_a_uid_of_the_sandbox_and_none_is_setuid(
    python: Run, workspace: Workspace, local_backend: LocalBackend, tmp_path: Path
) -> None:
    code = """
import os
open("own", "w").close()
os.chmod("own", 0o6755)
try:
    os.chown("own", 0, 0)
except OSError as error:
    print(error.errno)
"""
    ended = await python(code)
    assert ended.outcome.succeeded
    [own] = seen_by_launcher(local_backend, "own")
    assert own.stat().st_uid == os.geteuid() or os.geteuid() == 0
    assert own.stat().st_uid != 0
    # The bit may stand there; nothing outside sees the mount, and nothing inside is obeyed by it.
    assert os.statvfs(own).f_flag & os.ST_NOSUID
    assert [path for path in (Path("/mnt"), tmp_path) if list(path.rglob("own"))] == []
    await workspace.save()
    assert saved_mode(tmp_path, "own") == 0o755


async def test_root_in_the_sandbox_is_nobody_on_the_host(
    shell: Run, backend: SandboxBackend
) -> None:
    seen = await shell("id -u; cat /proc/self/uid_map; grep -E '^(Cap|NoNew)' /proc/self/status")
    lines = seen.stdout.split("\n")
    assert lines[0] != "0"
    # An engine may map uids; where it does not, there is no root inside to be somebody outside.
    assert backend.own_image or lines[1].split()[0] != "0"
    assert all(int(line.split()[1], 16) == 0 for line in lines if line.startswith("Cap"))
    assert "NoNewPrivs:\t1" in lines


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has one uid")
async def test_conversations_have_uids_of_their_own(local_backend: LocalBackend) -> None:
    for name in ("conv_a", "conv_b"):
        workspace = await local_backend.workspace(WorkspaceKey("tenant", name))
        ended = await collect(
            workspace, ExecutionSpec(["/bin/sh", "-c", "echo > f"], limits=LIMITS)
        )
        assert ended.outcome.succeeded
    owners = {file.stat().st_uid for file in seen_by_launcher(local_backend, "f")}
    assert len(owners) == 2
    assert 0 not in owners


# Mounts and how their options begin; an image is one mount, and nothing of this machine's in it.
READ_ONLY = {False: ("ro,nosuid,nodev,", ["/", "/usr", "/dev"]), True: ("ro,", ["/"])}


async def test_file_systems_have_sizes_or_are_read_only(
    python: Run, backend: SandboxBackend
) -> None:
    code = (
        f"read_only = {READ_ONLY[backend.own_image]!r}"
        + """
import json, os
found = []
for line in open("/proc/mounts"):
    source, target, kind, options = line.split()[:4]
    if kind == "tmpfs" and options.startswith("rw"):
        found.append([target, "size=" in options or not os.access(target, os.W_OK)])
    if target in read_only[1] or target.startswith("/etc/"):
        found.append([target, options.startswith(read_only[0])])
for path in ("/", "/dev", "/etc", "/usr", "/run", "/run/input", "/var"):
    try:
        open(os.path.join(path, "x"), "w").close()
        found.append([path, False])
    except OSError:
        pass
print(json.dumps(found))
"""
    )
    ended = await python(code)
    found = json.loads(ended.stdout)
    expected = {"/workspace", "/tmp", "/dev/shm", *READ_ONLY[backend.own_image][1]}  # noqa: S108 - inside
    assert expected <= {target for target, _ in found}
    assert [target for target, bounded in found if not bounded] == []


async def test_nothing_of_the_host_is_there(
    shell: Run, tmp_path: Path, backend: SandboxBackend
) -> None:
    system = "" if backend.own_image else "/root /home /var /srv /boot /sys"
    seen = await shell(f"ls -d {system} {tmp_path} {Path.cwd()} 2>/dev/null")
    assert seen.stdout == ""


@pytest.mark.parametrize(
    "link",
    ["/etc/passwd", "../../../../etc/passwd", "/proc/self/environ"],
)
async def test_service_follows_no_link_out_of_the_workspace(
    shell: Run, workspace: Workspace, link: str
) -> None:
    await shell(f"ln -s {link} trap; mkdir d; ln -s / d/root")
    for path in ("trap", "d/root/etc/passwd", "d/../../etc/passwd", "/etc/passwd"):
        with pytest.raises(UnsafePathError):
            await workspace.read_file(path)
        with pytest.raises((UnsafePathError, OSError)):
            await workspace.write_file(path, b"overwritten")
    assert not read_host("/etc/passwd").startswith(b"overwritten")
    entries = {entry.path: entry.kind for entry in await workspace.list_files()}
    assert entries["trap"] == "link"
    assert "d/root/etc" not in entries


async def test_no_descriptor_of_the_service_is_inherited(shell: Run) -> None:
    readable, writable = os.pipe()
    os.set_inheritable(readable, True)
    try:
        seen = await shell("ls -l /proc/self/fd")
    finally:
        os.close(readable)
        os.close(writable)
    numbers = sorted(int(line.split()[-3]) for line in seen.stdout.splitlines() if "->" in line)
    assert numbers == [0, 1, 2, 3]  # 3 is the directory that ls reads


async def test_the_network_is_off(python: Run) -> None:
    code = """
import socket
for address in (("127.0.0.1", 1), ("1.1.1.1", 53)):
    try:
        socket.create_connection(address, timeout=5)
        print("reached", address)
    except OSError as error:
        print(error.errno)
print(open("/proc/net/dev").read().count(":"))
"""
    ended = await python(code)
    assert "reached" not in ended.stdout
    assert ended.stdout.split()[-1] == "1"  # the loopback of its own namespace


async def test_abstract_sockets_of_the_host_are_out_of_reach(python: Run) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # The kernel chooses a free name.
        server.bind("")
        server.listen()
        name = server.getsockname()
        ended = await python(f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})")
    assert "Connection refused" in ended.stderr


@pytest.mark.parametrize("machine", sorted(seccomp.MACHINES))
def test_filter_can_be_assembled_for_every_machine(machine: str) -> None:
    program = seccomp.build_filter(machine=machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096


def test_filter_for_an_unknown_machine_is_refused() -> None:
    with pytest.raises(seccomp.UnsupportedMachineError):
        seccomp.build_filter(machine="pdp11")


def test_launcher_needs_only_the_standard_library() -> None:
    """It runs with -I -S and must not depend on what the service has installed."""
    source = str(Path(launcher.__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {source!r}); import {launcher.__name__}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, env={})
