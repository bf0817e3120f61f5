"""Secrets of the host, of the service and of other tenants."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from .attack import StoppedError, attack, settings

secret = partial(attack, "secrets")
NOT_SHOWN = "mount namespace: not there"


def _canary_in(texts: dict[str, bytes]) -> str:
    """The names of those that hold the canary. Raises StoppedError where none does."""
    canary = bytes.fromhex(settings()["canary_as_hex"])
    found = [name for name, text in texts.items() if canary in text]
    if not found:
        raise StoppedError("not there")
    return f"read it in {found}"


def _of_processes(name: str) -> dict[str, bytes]:
    texts = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            texts[str(folder / name)] = (folder / name).read_bytes()
        except OSError:
            continue
    return texts


@secret(means="started with an empty environment", stopped_by=("not there",))
def environment_of_processes() -> str:
    """/proc/PID/environ of every process that is to be seen, the first one above all."""
    return _canary_in(_of_processes("environ"))


@secret(means="started with an empty environment", stopped_by=("not there",))
def environment_of_the_program() -> str:
    """The variables that the program itself was given."""
    return _canary_in({"own": b"\n".join(b"%s=%s" % pair for pair in os.environb.items())})


@secret(means="pid namespace", stopped_by=("not there",))
def command_lines_of_processes() -> str:
    """/proc/PID/cmdline: words that other programs were started with."""
    return _canary_in(_of_processes("cmdline"))


@secret(means="the service's memory is in no process inside", stopped_by=("not there",))
def memory_of_processes() -> str:
    """/proc/PID/mem of every process that may be read."""
    texts = {}
    for pid in (int(folder.name) for folder in Path("/proc").glob("[0-9]*")):
        if pid == os.getpid():
            continue
        try:
            texts[f"/proc/{pid}/mem"] = _memory(pid)
        except OSError:
            continue
    return _canary_in(texts)


def _memory(pid: int) -> bytes:
    """The heap and the other writable memory, up to 64 MiB."""
    pieces, left = [], 64 << 20
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            start, end = (int(each, 16) for each in span.split("-"))
            if "rw" not in rights or end - start > left:
                continue
            try:
                pieces.append(os.pread(memory.fileno(), end - start, start))
            except OSError:
                continue
            left -= end - start
    return b"".join(pieces)


def _reading(name: str, key: str, what: str) -> None:
    def run() -> str:
        return _canary_in({"file": Path(settings()[key]).read_bytes()})

    run.__name__, run.__doc__ = name, what
    secret(means=NOT_SHOWN, stopped_by=("ENOENT", "EACCES"))(run)


_reading("file_of_the_host", "host_file", "A file in a folder of the host's.")
_reading("data_of_the_service", "data_file", "A file in the service's data folder.")
_reading("file_of_another_tenant", "other_tenant_file", "Another tenant's workspace, by its path.")
_reading("file_by_way_of_the_first_process", "by_root", "/proc/1/root, then the file's path.")


# A container's image has files of these names, which are not the host's.
@secret(means=NOT_SHOWN, stopped_by=("ENOENT", "EACCES"))
def password_hashes() -> str:
    """/etc/shadow; opened, not read."""
    os.close(os.open("/etc/shadow", os.O_RDONLY))
    return "opened"


@secret(means=NOT_SHOWN, stopped_by=("ENOENT", "EACCES"))
def home_folder_of_root() -> str:
    """/root and what lies there."""
    return f"{len(os.listdir('/root'))} entries"


@secret(means="mounts of their own", stopped_by=("EXDEV", "EPERM", "EACCES"))
def hard_link_to_the_host() -> str:
    """A second name for a file of the host's, kept when the first is gone."""
    if settings().get("outside"):
        os.link(settings()["host_file"], settings()["host_file"] + ".linked")
    else:
        os.link("/usr/bin/env", "linked")
    return "linked"


@secret(means="pid namespace", stopped_by=("not there",))
def processes_of_the_host() -> str:
    """/proc/PID of the service."""
    pid = settings()["service_pid"]
    try:
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        raise StoppedError("not there") from None
    if settings()["service_start"] not in ("", start):
        raise StoppedError("not there")
    return f"sees process {pid}"


@secret(means="exact descriptors", stopped_by=("none",))
def inherited_descriptors() -> str:
    """What was left open beyond the standard three, here and in every process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            names = sorted(int(name) for name in os.listdir(folder))
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink(folder / str(name))
            except OSError:
                continue
            if settings()["marked"] in target:
                found.append(f"{folder}/{name} is {target}")
    if not found:
        raise StoppedError("none")
    return "; ".join(found)


@secret(means="mount namespace", stopped_by=("not there",))
def paths_of_the_host() -> str:
    """/proc/self/mountinfo, /proc/self/cgroup: where the service keeps what."""
    texts = {
        name: Path(name).read_bytes() for name in ("/proc/self/mountinfo", "/proc/self/cgroup")
    }
    marks = [settings()["data_folder"].encode(), b"agentmesh-"]
    found = [name for name, text in texts.items() if any(mark in text for mark in marks)]
    if not found:
        raise StoppedError("not there")
    return f"told by {found}"


@secret(means="/tmp and /dev/shm are of one execution", stopped_by=("not there",))
def what_the_last_execution_left() -> str:
    """Files in /tmp and /dev/shm of another execution; the stage lets that one leave the canary."""
    texts = {}
    for folder in ("/tmp", "/dev/shm"):
        for name in settings()["left"]:
            path = Path(folder) / name
            if path.exists():
                texts[str(path)] = path.read_bytes()
    return _canary_in(texts)
