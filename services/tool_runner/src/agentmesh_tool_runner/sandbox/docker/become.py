"""From the agent's forked child to the program. Standard library only, and no threads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import termios
from pathlib import Path
from typing import Any, NoReturn

from agentmesh_tool_runner.sandbox import kernel

from .inside import WORKSPACE

# More than any kernel knows yet.
_CAPABILITIES = range(64)


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
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            # Rather the program than the agent when memory is short.
            Path("/proc/self/oom_score_adj").write_text("500")
        for kind, value in header["limits"]:
            hard = resource.getrlimit(kind)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (bound, bound))
        if header["uid"] is not None:
            change_user(header["uid"])
        if header["filter"]:
            kernel.load_filter(bytes.fromhex(header["filter"]))
        run(header)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"sandbox could not start the program: {error}\n".encode())
            os.write(report, b"!")
    os._exit(125)


def change_user(uid: int) -> None:
    """Another user, for good: no capability stays, nor can come back."""
    for capability in _CAPABILITIES:
        # Of those that there are not, and that it may not drop, it has none to lose.
        with contextlib.suppress(OSError):
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
    kernel.become(uid)


def run(header: dict[str, Any]) -> None:
    """Becomes the program. On a terminal a missing one is told as a shell tells it."""
    try:
        os.execvpe(header["argv"][0], header["argv"], header["environment"])  # noqa: S606
    except OSError as error:
        if not header["terminal"]:
            raise
        os.write(2, f"{header['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127)
