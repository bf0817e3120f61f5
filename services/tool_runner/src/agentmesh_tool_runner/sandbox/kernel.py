"""Calls of the kernel that Python does not offer: namespaces, mounts, limits of others.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

_CLONE_NEWNS = 0x20000
_CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 1, 2, 4, 0x20, 0x1000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 22, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}

_libc = ctypes.CDLL(None, use_errno=True)

Call: TypeAlias = tuple[Callable[..., int], tuple[Any, ...], str]
"""A function of the C library, its arguments, and what errors call it: to be made as it is, once
for each child, by whom every new object costs a page."""


def make(calls: Iterable[Call]) -> None:
    """Makes one after the other. Raises OSError of the first that fails."""
    for function, arguments, what in calls:
        if function(*arguments) != 0:
            check(-1, what)


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


def mount_temporary(folders: list[list[Any]], uid: int | None) -> None:
    """A mount namespace of the caller's own with a tmpfs at each (path, bytes, files)."""
    make([unsharing_mounts()])
    owner = "" if uid is None else f",uid={uid},gid={uid}"
    for path, size, files in folders:
        options = f"mode=1777,size={size},nr_inodes={files}{owner}"
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options)


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> None:
    make([mounting(source, target, kind, flags, options)])


def mounting(source: str, target: str, kind: str | None, flags: int, options: str | None) -> Call:
    """What `mount` does."""
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    return _libc.mount, (*texts[:3], ctypes.c_ulong(flags), texts[3]), f"mount {target}"


def unmount(target: str) -> None:
    check(_libc.umount2(target.encode(), _MNT_DETACH), f"unmount {target}")
    Path(target).rmdir()


def prctl(what: int, value: int) -> None:
    """`prctl` with one argument. Raises OSError."""
    make([telling(what, value)])


def telling(what: int, value: int) -> Call:
    """What `prctl` does."""
    rest = [ctypes.c_ulong(each) for each in (value, 0, 0, 0)]
    return _libc.prctl, (what, *rest), f"prctl {what}"


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def load_filter(program: bytes) -> None:
    """Puts a seccomp filter on this process, for good. Raises OSError."""
    make(filtering(program))


def filtering(program: bytes) -> list[Call]:
    """What `load_filter` does."""
    loaded = ctypes.byref(_Program(len(program) // 8, program))
    load = (_libc.prctl, (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, loaded, 0, 0), "seccomp")
    return [telling(_PR_SET_NO_NEW_PRIVS, 1), load]


def drop_capabilities(machine: str) -> None:
    """All of them, also those that a later exec could bring back. Raises OSError."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_bytes())
    make(dropping(machine, range(last + 1)))


def dropping(machine: str, held: Iterable[int]) -> list[Call]:
    """What `drop_capabilities` does where there are these and no others."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    return [
        *(telling(PR_CAPBSET_DROP, capability) for capability in held),
        telling(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL),
        (_libc.syscall, (_SYS_CAPSET[machine], header, bytes(24)), "capset"),
    ]


def unsharing_mounts() -> Call:
    """A mount namespace of the caller's own."""
    return _libc.unshare, (_CLONE_NEWNS,), "unshare"


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
