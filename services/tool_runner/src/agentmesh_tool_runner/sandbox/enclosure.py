"""Builds a sandbox out of kernel calls and sandlock, in a child of the launcher, without bwrap.

Standard library only but for sandlock, which the launcher has loaded before it forked. Three
processes: the child that the launcher forked stays outside and waits; its child is the first
process inside, builds the file system and reaps; that one's child takes the locks upon itself (a
Landlock domain by sandlock, no capabilities, the seccomp filter) and becomes the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from . import kernel
from .launcher_protocol import BLOCK_DESCRIPTOR, FIRST_EXTRA_DESCRIPTOR, STATUS_DESCRIPTOR

NAMESPACES: Final = {
    "user": 0x10000000,
    "pid": 0x20000000,
    "mount": 0x20000,
    "network": 0x40000000,
    "ipc": 0x8000000,
    "uts": 0x4000000,
    "cgroup": 0x2000000,
}
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_SYS_MOUNT_SETATTR = 442  # the same on every machine
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 8, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_AFTER_DESCRIPTORS: Final = BLOCK_DESCRIPTOR + 1
_NEW, _OLD = "/newroot", "/oldroot"
_STAGE = "/tmp"  # noqa: S108 - only a name that exists everywhere, covered before it is used

_libc = ctypes.CDLL(None, use_errno=True)


def load(folder: str) -> None:
    """Loads sandlock from that folder of packages, once and before anything is forked."""
    sys.path.append(folder)
    # It asks for the home, which a user of a container may not have.
    os.environ["HOME"] = "/"
    try:
        importlib.import_module("sandlock")
    except Exception as error:
        raise OSError(errno.ENOEXEC, f"sandlock does not load: {error}") from error
    finally:
        sys.path.remove(folder)
        del os.environ["HOME"]


def run(plan: Mapping[str, Any]) -> NoReturn:
    """Runs the plan's program inside. The caller has the uid, the limits and the descriptors.

    Tells `child-pid` and, once the program has ended, `exit-code` on the status descriptor, as
    bwrap does. Never told `exit-code`: the program was not started.
    """
    os.closerange(_AFTER_DESCRIPTORS, 1 << 20)
    launcher, machine = os.getppid(), os.uname().machine
    uid, gid = os.geteuid(), os.getegid()
    # A change of uid takes a process its own /proc files, which the maps are written to.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    flags = sum(NAMESPACES[name] for name in plan["namespaces"])
    kernel.check(_libc.unshare(flags), "unshare")
    kernel.write_file("/proc/self/setgroups", "deny")
    kernel.write_file("/proc/self/uid_map", f"{plan['id']} {uid} 1")
    kernel.write_file("/proc/self/gid_map", f"{plan['id']} {gid} 1")
    # Again, for new credentials clear it.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(125)
    watch = os.pidfd_open(os.getpid())
    first = os.fork()
    if first == 0:
        _guarded(lambda: _first_inside(plan, watch, machine))
    _tell({"child-pid": first})
    os.closerange(0, _AFTER_DESCRIPTORS)
    os.waitpid(first, 0)
    os._exit(0)


def _guarded(work: Any) -> NoReturn:
    try:
        work()
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"sandbox could not be started: {error}\n".encode())
    os._exit(125)


def _tell(news: Mapping[str, int]) -> None:
    os.write(STATUS_DESCRIPTOR, json.dumps(news).encode() + b"\n")


def _first_inside(plan: Mapping[str, Any], parent: int, machine: str) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if _readable(parent):
        os._exit(125)
    os.close(parent)
    _build_root(plan, machine)
    socket.sethostname("sandbox")
    if "network" in plan["namespaces"]:
        _raise_loopback()
    for kind, value in plan["limits"]:
        # Counted in the new user namespace, and so for this sandbox alone.
        resource.setrlimit(kind, (value, value))
    program = _content(plan["filter"])
    kernel.drop_capabilities(machine)
    # Nothing inside may look into the one process that holds no locks.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    trouble, report = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become_program(plan, program, report)
    os.close(report)
    kernel.load_filter(program)
    started = os.read(trouble, 1) == b""
    os.closerange(0, STATUS_DESCRIPTOR)
    code = _reap_until(pid)
    if started:
        _tell({"exit-code": code})
    # The kernel kills whatever else is left in the pid namespace.
    os._exit(0)


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _reap_until(program: int) -> int:
    """Waits for orphans and the program; 128 + n if signal n ended it."""
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _become_program(plan: Mapping[str, Any], program: bytes, report: int) -> NoReturn:
    try:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        os.setsid()
        os.chdir(plan["directory"])
        _lock(plan)
        kernel.load_filter(program)
        os.dup2(report, FIRST_EXTRA_DESCRIPTOR, inheritable=False)
        os.closerange(FIRST_EXTRA_DESCRIPTOR + 1, 2 * _AFTER_DESCRIPTORS)
        os.execvpe(plan["argv"][0], plan["argv"], plan["environment"])  # noqa: S606 - the program
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"sandbox could not start the program: {error}\n".encode())
            os.write(FIRST_EXTRA_DESCRIPTOR, b"!")
            os.write(report, b"!")
    os._exit(125)


def _lock(plan: Mapping[str, Any]) -> None:
    """A Landlock domain: files, signals, abstract sockets; raises where it cannot be had."""
    sandlock = importlib.import_module("sandlock")
    sandlock.confine(sandlock.Sandbox(fs_readable=plan["readable"], fs_writable=plan["writable"]))
    try:
        # Its mount is writable, so that this shows what the domain alone refuses.
        descriptor = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    except PermissionError:
        return
    os.close(descriptor)
    raise RuntimeError("sandlock took nothing away")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = bytearray(struct.pack("16sH22x", b"lo", 0))
        fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("H", request, 16)[0] | _IFF_UP
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags))


def _build_root(plan: Mapping[str, Any], machine: str) -> None:
    """A new root on a tmpfs, with what the plan names of the host and nothing else of it."""
    kernel.mount("none", "/", None, _MS_REC | _MS_PRIVATE, None)
    # Twice changed: while the first change lasts, host and sandbox both have names.
    kernel.mount("tmpfs", _STAGE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755")
    for folder in (_NEW, _OLD):
        Path(_STAGE + folder).mkdir()
    _pivot(_STAGE, _STAGE + _OLD, machine)
    os.chdir("/")
    size = plan["content_bytes"]
    kernel.mount(
        "tmpfs", _NEW, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode=0755,size={size}"
    )
    for source, target in plan["host"]:
        _bind(source, target)
    for name, target in plan["links"]:
        Path(_NEW + name).symlink_to(target)
    for name in plan["folders"]:
        _make(name)
    for name, descriptor in plan["files"]:
        _lay(name, descriptor)
    _make_devices(plan["temporary_bytes"], plan["temporary_files"])
    _make("/proc")
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | _MS_NOEXEC
    kernel.mount("proc", f"{_NEW}/proc", "proc", flags, None)
    _tmpfs("/tmp", plan["temporary_bytes"], plan["temporary_files"])  # noqa: S108 - inside
    _make(plan["directory"])
    kernel.mount(f"{_OLD}{plan['workspace']}", _NEW + plan["directory"], None, _MS_BIND, None)
    for target in ("/dev", "/"):
        _set_flags(target, _MOUNT_ATTR_RDONLY)
    os.chdir(_NEW)
    _pivot(".", ".", machine)
    kernel.check(_libc.umount2(b".", _MNT_DETACH), "unmount the old root")
    os.chdir("/")


def _pivot(new: str, old: str, machine: str) -> None:
    result = _libc.syscall(_SYS_PIVOT_ROOT[machine], new.encode(), old.encode())
    kernel.check(result, "pivot_root")


def _make(name: str) -> None:
    Path(_NEW + name).mkdir(mode=0o755, parents=True, exist_ok=True)


def _bind(source: str, target: str) -> None:
    if Path(_OLD + source).is_dir():
        _make(target)
    else:
        _make(str(Path(target).parent))
        Path(_NEW + target).touch()
    kernel.mount(_OLD + source, _NEW + target, None, _MS_BIND | _MS_REC, None)
    flags = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV
    _set_flags(target, flags, recursive=True)


def _set_flags(target: str, flags: int, *, recursive: bool = False) -> None:
    attributes = struct.pack("=QQQQ", flags, 0, 0, 0)
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR,
        _AT_FDCWD,
        (_NEW + target).encode(),
        _AT_RECURSIVE if recursive else 0,
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    kernel.check(result, f"mount_setattr {target}")


def _lay(name: str, descriptor: int) -> None:
    _make(str(Path(name).parent))
    Path(_NEW + name).write_bytes(_content(descriptor))
    Path(_NEW + name).chmod(0o555)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _tmpfs(name: str, size: int, files: int) -> None:
    _make(name)
    options = f"mode=1777,size={size},nr_inodes={files}"
    kernel.mount("tmpfs", _NEW + name, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)


def _make_devices(size: int, files: int) -> None:
    _make("/dev")
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", f"{_NEW}/dev", "tmpfs", flags, "mode=0755,size=64k,nr_inodes=64")
    for device in _DEVICES:
        Path(f"{_NEW}/dev/{device}").touch()
        kernel.mount(f"{_OLD}/dev/{device}", f"{_NEW}/dev/{device}", None, _MS_BIND, None)
    links = {"fd": "/proc/self/fd", "ptmx": "pts/ptmx"}
    links |= {name: f"/proc/self/fd/{n}" for n, name in enumerate(("stdin", "stdout", "stderr"))}
    for name, target in links.items():
        Path(f"{_NEW}/dev/{name}").symlink_to(target)
    _make("/dev/pts")
    options = "newinstance,ptmxmode=0666,mode=0620"
    kernel.mount("devpts", f"{_NEW}/dev/pts", "devpts", kernel.MS_NOSUID | _MS_NOEXEC, options)
    _tmpfs("/dev/shm", size, files)  # noqa: S108 - inside
