"""What a child of the resident does between its fork and being the program.

Standard library only. It still has the resident's capabilities when it begins; everything that it
reads until they are gone comes from the service.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from . import kernel, resident_python

INPUT_DIRECTORY: Final = "/run/input"
WORKSPACE_DIRECTORY: Final = "/workspace"
REPORT_DESCRIPTOR: Final = 3
CONTROL_DESCRIPTOR: Final = 4
_TEMPORARY: Final = ("/tmp", "/dev/shm")  # noqa: S108 - inside
# CAP_SETPCAP and CAP_SYS_ADMIN, all that a resident is given.
_HELD: Final = (8, 21)
_LENGTH: Final = struct.Struct("=I")
# Room for all that a request or a compiler can bring; only what is there takes memory.
_INPUT_OPTIONS: Final = "mode=0755,size=256m,nr_inodes=4096"


def pack(plan: Mapping[str, Any], contents: Sequence[bytes]) -> bytes:
    """A plan as it is handed over.

    It has `argv`, `environment`, `limits` (pairs of RLIMIT_* and value), `how` ("exec", "script" or
    "interpreter") and `files`, pairs of a name below INPUT_DIRECTORY and a size; their `contents`
    follow it.
    """
    told = json.dumps(plan).encode()
    return b"".join((_LENGTH.pack(len(told)), told, *contents))


def unpack(descriptor: int) -> tuple[dict[str, Any], bytes]:
    """The plan, and what follows it."""
    data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    [length] = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    return json.loads(data[_LENGTH.size : end]), data[end:]


def wait(
    start: socket.socket,
    report: int,
    seccomp_filter: bytes,
    machine: str,
    brought: frozenset[str],
    sizes: tuple[int, int],
) -> NoReturn:
    """Gets ready, and waits for a message with the program's descriptors, then becomes it.

    `sizes` are bytes and files of each temporary folder. Writes to `report` if the program cannot
    be started.
    """
    try:
        _restore_signals()
        os.setsid()
        inputs = _make_folders(*sizes)
        kernel.drop_capabilities(machine, _HELD)
        kernel.load_filter(seccomp_filter)
        # So that it owns its own /proc files again.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        os.chdir(WORKSPACE_DIRECTORY)
        data, descriptors, _, _ = socket.recv_fds(start, 16, 8)
        if not data:
            os._exit(0)
        plan, contents = unpack(descriptors[3])
        _lay(inputs, plan["files"], contents)
        _arrange(descriptors, report)
        for kind, value in plan["limits"]:
            resource.setrlimit(kind, (value, value))
        _run(plan, brought)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"sandbox could not start the program: {error}\n".encode())
            os.write(REPORT_DESCRIPTOR, b"!")
    os._exit(125)


def _restore_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _arrange(descriptors: Sequence[int], report: int) -> None:
    """Leaves the three standard ones, the report, and an interpreter's control socket."""
    stdin, stdout, stderr, _, *control = descriptors
    wanted = [stdin, stdout, stderr, report, *control]
    # First out of the way of every target, so that no dup2 overwrites a source still needed.
    high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 64) for each in wanted]
    for target, source in enumerate(high):
        os.dup2(source, target, inheritable=target < REPORT_DESCRIPTOR)
    os.closerange(len(high), 1 << 16)


def _make_folders(size: int, files: int) -> int:
    """Fresh temporary folders, and one for input, which nobody can write to but by the descriptor
    that this returns."""
    kernel.unshare_mounts()
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    for folder in _TEMPORARY:
        options = f"mode=1777,size={size},nr_inodes={files}"
        kernel.mount("tmpfs", folder, "tmpfs", flags, options)
    kernel.mount("tmpfs", INPUT_DIRECTORY, "tmpfs", flags, _INPUT_OPTIONS)
    inputs = os.open(INPUT_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    kernel.mount(INPUT_DIRECTORY, INPUT_DIRECTORY, None, kernel.MS_BIND, None)
    flags |= kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
    kernel.mount("none", INPUT_DIRECTORY, None, flags, None)
    return inputs


def _lay(inputs: int, files: Sequence[tuple[str, int]], contents: bytes) -> None:
    at = 0
    for name, length in files:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o555, dir_fd=inputs)
        view = memoryview(contents)[at : at + length]
        while view:
            view = view[os.write(descriptor, view) :]
        os.close(descriptor)
        at += length


def _run(plan: Mapping[str, Any], brought: frozenset[str]) -> NoReturn:
    argv, environment = plan["argv"], plan["environment"]
    how = plan["how"]
    if how != "exec" and (how == "interpreter" or Path(argv[1]).is_file()):
        os.environ.clear()
        os.environ.update(environment)
        resident_python.look_bare(brought)
        os.close(REPORT_DESCRIPTOR)
        if how == "interpreter":
            resident_python.interpret(CONTROL_DESCRIPTOR)
        resident_python.run_script(argv[1:])
    # Python ignores them; programs expect otherwise.
    for kind in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(kind, signal.SIG_DFL)
    os.execvpe(argv[0], argv, environment)  # noqa: S606 - the program
