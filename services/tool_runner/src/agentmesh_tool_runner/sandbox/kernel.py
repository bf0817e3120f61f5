"""What the launcher does to itself and to its children: namespaces, mounts, limits, descriptors.

Standard library only, and no threads: the functions for children run between fork and exec.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any, NoReturn

from .launcher_protocol import BLOCK_DESCRIPTOR, STATUS_DESCRIPTOR, receive

_CLONE_NEWNS = 0x20000
_CLONE_NEWUSER = 0x10000000
MS_NOSUID, MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 0x4000, 0x40000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def become_sandbox(
    request: dict[str, Any], descriptors: list[int], status: int, block: int, parent: int
) -> NoReturn:
    """In the forked child: joins groups, takes limits, uid and descriptors, becomes bwrap."""
    try:
        restore_signals()
        join(request["member_files"])
        arrange_descriptors(descriptors, status, block)
        for kind, value in request["limits"]:
            resource.setrlimit(kind, (value, value))
        if request["uid"] is not None:
            become(request["uid"])
        # After the change of uid, which clears it.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(125)
        os.setsid()
        os.umask(0o022)
        os.execve(request["argv"][0], request["argv"], {})  # noqa: S606 - bwrap
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"sandbox could not be started: {error}\n".encode())
    os._exit(125)


def limit_process(pid: int, limits: list[list[int]], uid: int | None) -> None:
    """Sets limits of another process, as its own user: root may lack CAP_SYS_RESOURCE.

    Raises OSError if one could not be set.
    """
    if uid is None:
        for kind, value in limits:
            resource.prlimit(pid, kind, (value, value))
        return
    helper = os.fork()
    if helper == 0:
        with contextlib.suppress(BaseException):
            become(uid)
            limit_process(pid, limits, None)
            os._exit(0)
        os._exit(1)
    if os.waitpid(helper, 0)[1] != 0:
        raise OSError(errno.EPERM, "the limits of the sandbox could not be set")


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


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


def enter_namespaces(base: str) -> None:
    """Own mount namespace with a private tmpfs at `base`; an ordinary user needs a user namespace
    too.
    """
    uid, gid = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNS if uid == 0 else _CLONE_NEWNS | _CLONE_NEWUSER
    check(_libc.unshare(flags), "unshare")
    if uid != 0:
        write_file("/proc/self/setgroups", "deny")
        write_file("/proc/self/uid_map", f"{uid} {uid} 1")
        write_file("/proc/self/gid_map", f"{gid} {gid} 1")
    mount("none", "/", None, _MS_REC | _MS_PRIVATE, None)
    mount("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    result = _libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3])
    check(result, f"mount {target}")


def unmount(target: str) -> None:
    check(_libc.umount2(target.encode(), _MNT_DETACH), f"unmount {target}")
    Path(target).rmdir()


def check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def write_file(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def restore_signals() -> None:
    signal.set_wakeup_fd(-1)
    for kind in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(kind, signal.SIG_DFL)


def join(member_files: list[str]) -> None:
    for path in member_files:
        write_file(path, "0")


def wait_as_spare(channel: socket.socket, member_files: list[str], parent: int) -> NoReturn:
    """In a child forked ahead of need: joins its groups, then waits for what it is to become.

    Joining a group takes a grace period of the kernel, longer than all else that a start takes.
    """
    try:
        restore_signals()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
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
