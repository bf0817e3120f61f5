"""From the agent's forked child to the program. Standard library only, and no threads."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import termios
from pathlib import Path
from typing import Any, NoReturn

from .inside import WORKSPACE

PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_PR_CAPBSET_DROP = 24


def become(header: dict[str, Any], ends: list[int], report: int, *, guarded: bool) -> NoReturn:
    """In the forked child: limits, descriptors, the filter, then the program."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        if header["terminal"]:
            fcntl.ioctl(ends[0], termios.TIOCSCTTY, 0)
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (*ends, report)]
        for target, descriptor in enumerate(high[:3]):
            os.dup2(descriptor, target)
        report = os.dup2(high[3], 3, inheritable=False)
        os.closerange(4, 4096)
        os.chdir(WORKSPACE)
        if guarded:
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
            # Rather the program than the agent when memory is short.
            Path("/proc/self/oom_score_adj").write_text("500")
        for kind, value in header["limits"]:
            hard = resource.getrlimit(kind)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (bound, bound))
        if header["uid"] is not None:
            change_user(header["uid"])
        load_filter(bytes.fromhex(header["filter"]))
        run(header)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"sandbox could not start the program: {error}\n".encode())
            os.write(report, b"!")
    os._exit(125)


def change_user(uid: int) -> None:
    """Another user, for good: no capability stays, nor can come back."""
    libc = ctypes.CDLL(None)
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def run(header: dict[str, Any]) -> None:
    """Becomes the program. On a terminal a missing one is told as a shell tells it."""
    try:
        os.execvpe(header["argv"][0], header["argv"], header["environment"])  # noqa: S606
    except OSError as error:
        if not header["terminal"]:
            raise
        os.write(2, f"{header['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def load_filter(program: bytes) -> None:
    """Loads a seccomp filter for this process and all that come of it."""
    if not program:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    loaded = _Filter(len(program) // 8, program)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the filter of system calls cannot be loaded")
