"""What a child of the launcher does between its fork and being the sandbox.

Standard library only, and no threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
from typing import Any, NoReturn

from . import enclosure, kernel
from .launcher_protocol import BLOCK_DESCRIPTOR, STATUS_DESCRIPTOR, receive


def become_sandbox(
    request: dict[str, Any], descriptors: list[int], status: int, block: int, parent: int
) -> NoReturn:
    """In the forked child: joins groups, takes limits, uid and descriptors, becomes bwrap,
    or builds the sandbox itself.
    """
    try:
        restore_signals()
        join(request["member_files"])
        arrange_descriptors(descriptors, status, block)
        for kind, value in request["limits"]:
            resource.setrlimit(kind, (value, value))
        if request["temporary"]:
            kernel.mount_temporary(request["temporary"], request["uid"])
        if request["uid"] is not None:
            kernel.become(request["uid"])
        # After the change of uid, which clears it.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(125)
        os.setsid()
        os.umask(0o022)
        if request["enclosure"] is not None:
            enclosure.run(request["enclosure"] | {"argv": request["argv"]})
        os.execve(request["argv"][0], request["argv"], {})  # noqa: S606 - bwrap
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"sandbox could not be started: {error}\n".encode())
    os._exit(125)


def wait_as_spare(channel: socket.socket, member_files: list[str], parent: int) -> NoReturn:
    """In a child forked ahead of need: joins its groups, then waits for what it is to become.

    Joining a group takes a grace period of the kernel, longer than all else that a start takes.
    """
    try:
        restore_signals()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.closerange(3, channel.fileno())
        os.closerange(channel.fileno() + 1, 4096)
        join(member_files)
        request, descriptors = receive(channel)
        if request is not None and os.getppid() == parent:
            block = descriptors.pop() if request["late_limits"] else -1
            status = descriptors.pop()
            become_sandbox(request | {"member_files": []}, descriptors, status, block, parent)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"a spare sandbox failed: {error}\n".encode())
    os._exit(125)


def arrange_descriptors(descriptors: list[int], status: int, block: int) -> None:
    """Gives the child exactly its descriptors, under the numbers that bwrap's arguments name."""
    sources = [*descriptors, status, block]
    targets = [*range(len(descriptors)), STATUS_DESCRIPTOR, BLOCK_DESCRIPTOR]
    # First out of the way of every target, so that no dup2 overwrites a source still needed.
    floor = BLOCK_DESCRIPTOR + 1
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor) if fd >= 0 else -1 for fd in sources]
    for source, target in zip(high, targets, strict=True):
        if source >= 0:
            os.dup2(source, target, inheritable=True)
    os.closerange(len(descriptors), STATUS_DESCRIPTOR)
    os.closerange(BLOCK_DESCRIPTOR if block < 0 else floor, max(high) + 1)


def restore_signals() -> None:
    signal.set_wakeup_fd(-1)
    for kind in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(kind, signal.SIG_DFL)


def join(member_files: list[str]) -> None:
    for path in member_files:
        kernel.write_file(path, "0")
