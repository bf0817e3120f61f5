"""System calls by number, for what Python has no function for."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Any

from .attack import NotHereError

X86_64 = {
    "acct": 163, "add_key": 248, "adjtimex": 159, "bpf": 321, "chroot": 161, "clone": 56,
    "fanotify_init": 300, "init_module": 175, "io_setup": 206, "iopl": 172,
    "ioprio_get": 252, "ioprio_set": 251, "kcmp": 312,
    "kexec_load": 246, "keyctl": 250, "mbind": 237, "modify_ldt": 154, "mount": 165,
    "mq_open": 240, "msgctl": 71, "msgget": 68, "name_to_handle_at": 303, "open_by_handle_at": 304,
    "perf_event_open": 298, "personality": 135, "pivot_root": 155, "process_vm_readv": 310,
    "process_vm_writev": 311, "ptrace": 101, "reboot": 169, "request_key": 249, "semctl": 66,
    "semget": 64, "sethostname": 170, "setns": 308, "settimeofday": 164, "shmctl": 31,
    "shmget": 29, "swapon": 167, "sync": 162, "syslog": 103, "umount2": 166, "unshare": 272,
    "userfaultfd": 323,
}  # fmt: skip
AARCH64 = {
    "acct": 89, "add_key": 217, "adjtimex": 171, "bpf": 280, "chroot": 51, "clone": 220,
    "fanotify_init": 262, "init_module": 105, "io_setup": 0, "ioprio_get": 31,
    "ioprio_set": 30, "kcmp": 272, "kexec_load": 104,
    "keyctl": 219, "mbind": 235, "mount": 40, "mq_open": 180, "msgctl": 187, "msgget": 186,
    "name_to_handle_at": 264, "open_by_handle_at": 265, "perf_event_open": 241, "personality": 92,
    "pivot_root": 41, "process_vm_readv": 270, "process_vm_writev": 271, "ptrace": 117,
    "reboot": 142, "request_key": 218, "semctl": 191, "semget": 190, "sethostname": 161,
    "setns": 268, "settimeofday": 170, "shmctl": 195, "shmget": 194, "swapon": 224, "sync": 81,
    "syslog": 116, "umount2": 39, "unshare": 97, "userfaultfd": 282,
}  # fmt: skip
EVERYWHERE = {
    "clone3": 435, "fsconfig": 431, "fsmount": 432, "fsopen": 430, "io_uring_setup": 425,
    "memfd_secret": 447, "mount_setattr": 442, "move_mount": 429, "open_tree": 428,
    "pidfd_getfd": 438, "pidfd_open": 434,
}  # fmt: skip

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: Any) -> int:
    """Makes the call. Raises OSError, and NotHereError where this processor has no such call."""
    numbers = {"x86_64": X86_64, "aarch64": AARCH64}[platform.machine()] | EVERYWHERE
    if name not in numbers:
        raise NotHereError(f"{platform.machine()} has no {name}")
    return number_call(numbers[name], *arguments)


def number_call(number: int, *arguments: Any) -> int:
    """The same for a call that has only a number."""
    passed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    ctypes.set_errno(0)
    result = int(libc.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def prctl(*arguments: int) -> int:
    passed = [ctypes.c_ulong(each) for each in (*arguments, *[0] * (5 - len(arguments)))]
    result = int(libc.prctl(*passed))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def buffer(layout: str, *values: Any) -> ctypes.Array[ctypes.c_char]:
    """A structure in memory, as `struct.pack` lays it."""
    data = struct.pack(layout, *values)
    return ctypes.create_string_buffer(data, len(data))


def x86_only() -> None:
    if platform.machine() != "x86_64":
        raise NotHereError("a call of x86")
