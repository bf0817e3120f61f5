"""What a child of the resident does between its fork and being the program.

Standard library only. It still has the resident's capabilities when it begins; everything that it
reads until they are gone comes from the service.
"""

from __future__ import annotations

# Without the enumerations of the public module, whose every use copies pages.
import _signal  # type: ignore[import-not-found]  # typeshed has none
import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_DECODER: Final = json.JSONDecoder()
# Has of everything what a plan has.
_SAMPLE: Final = '{"argv": ["a", "b"], "environment": {"c": "d"}, "limits": [[1, 10000000000]]}'
# What a resident has and no program gets.
_OWN_VARIABLE: Final = "LD_BIND_NOW"
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
    return _DECODER.raw_decode(data[_LENGTH.size : end].decode())[0], data[end:]


@dataclass(frozen=True)
class Steps:
    """What each child does to get ready, worked out before the first is forked.

    `folders` gives it temporary folders of its own, `sealing` closes the one for input to all but
    the descriptor that was opened before, `dropping` takes its powers. `bareness` is what hides the
    resident's modules. `environment` is the resident's.
    """

    folders: Sequence[kernel.Call]
    sealing: Sequence[kernel.Call]
    dropping: Sequence[kernel.Call]
    bareness: resident_python.Bareness
    environment: Mapping[str, str]
    usual: Mapping[str, str]
    """What most programs get in its place, so that little is left to do when one is there."""

    @classmethod
    def of(
        cls,
        seccomp_filter: bytes,
        machine: str,
        sizes: tuple[int, int],
        bareness: resident_python.Bareness,
    ) -> Steps:
        """`sizes` are bytes and files of each temporary folder."""
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        options = f"mode=1777,size={sizes[0]},nr_inodes={sizes[1]}"
        sealed = flags | kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
        there = dict(os.environ)
        usual = {name: value for name, value in there.items() if name != _OWN_VARIABLE}
        return cls(
            folders=(
                kernel.unsharing_mounts(),
                *(kernel.mounting("tmpfs", each, "tmpfs", flags, options) for each in _TEMPORARY),
                kernel.mounting("tmpfs", INPUT_DIRECTORY, "tmpfs", flags, _INPUT_OPTIONS),
            ),
            sealing=(
                kernel.mounting(INPUT_DIRECTORY, INPUT_DIRECTORY, None, kernel.MS_BIND, None),
                kernel.mounting("none", INPUT_DIRECTORY, None, sealed, None),
            ),
            dropping=(
                *kernel.dropping(machine, _HELD),
                *kernel.filtering(seccomp_filter),
                # So that it owns its own /proc files again.
                kernel.telling(kernel.PR_SET_DUMPABLE, 1),
            ),
            bareness=bareness,
            environment=there,
            usual={**usual, "PYTHONPATH": WORKSPACE_DIRECTORY},
        )


def wait(start: socket.socket, report: int, steps: Steps) -> NoReturn:
    """Gets ready, and waits for a message with the program's descriptors, then becomes it.

    Writes to `report` if the program cannot be started.
    """
    try:
        _restore_signals()
        os.setsid()
        kernel.make(steps.folders)
        inputs = os.open(INPUT_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        kernel.make(steps.sealing)
        kernel.make(steps.dropping)
        os.chdir(WORKSPACE_DIRECTORY)
        _DECODER.raw_decode(_SAMPLE)
        resident_python.rehearse()
        resident_python.look_bare(steps.bareness)
        _take_on(steps.usual, steps.environment)
        data, descriptors, _, _ = socket.recv_fds(start, 16, 8)
        if not data:
            os._exit(0)
        plan, contents = unpack(descriptors[3])
        _lay(inputs, plan["files"], contents)
        _arrange(descriptors, report)
        for kind, value in plan["limits"]:
            resource.setrlimit(kind, (value, value))
        _run(plan, steps)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"sandbox could not start the program: {error}\n".encode())
            os.write(REPORT_DESCRIPTOR, b"!")
    os._exit(125)


def _restore_signals() -> None:
    signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _arrange(descriptors: Sequence[int], report: int) -> None:
    """Leaves the three standard ones, the report, and an interpreter's control socket."""
    stdin, stdout, stderr, _, *control = descriptors
    wanted = [stdin, stdout, stderr, report, *control]
    # First out of the way of every target, so that no dup2 overwrites a source still needed.
    high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 64) for each in wanted]
    for target, source in enumerate(high):
        os.dup2(source, target, inheritable=target < REPORT_DESCRIPTOR)
    os.closerange(len(high), 1 << 16)


def _lay(inputs: int, files: Sequence[tuple[str, int]], contents: bytes) -> None:
    at = 0
    for name, length in files:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o555, dir_fd=inputs)
        view = memoryview(contents)[at : at + length]
        while view:
            view = view[os.write(descriptor, view) :]
        os.close(descriptor)
        at += length


def _run(plan: Mapping[str, Any], steps: Steps) -> NoReturn:
    argv, environment = plan["argv"], plan["environment"]
    how = plan["how"]
    if how != "exec" and (how == "interpreter" or os.path.isfile(argv[1])):  # noqa: PTH113 - each path costs
        _take_on(environment, steps.usual)
        resident_python.give_way(steps.bareness)
        os.close(REPORT_DESCRIPTOR)
        if how == "interpreter":
            resident_python.interpret(CONTROL_DESCRIPTOR)
        resident_python.run_script(argv[1:])
    # Python ignores them; programs expect otherwise.
    for kind in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(kind, _signal.SIG_DFL)
    os.execvpe(argv[0], argv, environment)  # noqa: S606 - the program


def _take_on(wanted: Mapping[str, str], there: Mapping[str, str]) -> None:
    """The program's environment, in place of the resident's, which is nearly the same."""
    for name in there.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if there.get(name) != value:
            os.environ[name] = value
