"""Files of the kernel that let their reader or writer into the host. Opened, never used."""

from __future__ import annotations

import os
from collections.abc import Callable

from .attack import NotHereError, attack, settings

_READ, _WRITE = os.O_RDONLY, os.O_WRONLY

# Name, family, file, how it is opened, what it would give.
_FILES = (
    ("core_pattern", "kernel", "/proc/sys/kernel/core_pattern", _WRITE, "a program run as root"),
    ("modprobe_path", "kernel", "/proc/sys/kernel/modprobe", _WRITE, "a program run as root"),
    ("uevent_helper", "kernel", "/sys/kernel/uevent_helper", _WRITE, "a program run as root"),
    ("sysrq_trigger", "kernel", "/proc/sysrq-trigger", _WRITE, "a crash, a reboot"),
    ("overcommit", "kernel", "/proc/sys/vm/overcommit_memory", _WRITE, "the machine's memory"),
    ("address_randomisation", "kernel", "/proc/sys/kernel/randomize_va_space", _WRITE, "addresses"),
    ("kernel_image", "secrets", "/proc/kcore", _READ, "all memory of the machine"),
    ("kernel_messages", "secrets", "/dev/kmsg", _READ, "addresses, devices"),
    ("kernel_messages_of_proc", "secrets", "/proc/kmsg", _READ, "addresses, devices"),
    ("physical_memory", "secrets", "/dev/mem", _READ, "all memory of the machine"),
    ("block_device", "secrets", "the root disk", _READ, "every file of the host"),
    ("page_counts", "secrets", "/proc/kpagecount", _READ, "where memory lies"),
    ("loop_devices", "kernel", "/dev/loop-control", _READ, "file systems of the attacker's making"),
    ("fuse", "kernel", "/dev/fuse", _READ, "a file system that stalls its readers"),
    ("virtual_machines", "kernel", "/dev/kvm", _READ, "a large surface of the kernel"),
    ("network_devices", "kernel", "/dev/net/tun", _READ, "interfaces"),
    ("userfaultfd_device", "kernel", "/dev/userfaultfd", _READ, "userfaultfd without its call"),
    ("release_agent", "kernel", "release_agent", _WRITE, "a program run as root by a group's end"),
    ("control_group_members", "kernel", "cgroup.procs", _WRITE, "a group without bounds"),
    ("control_group_limit", "kernel", "cgroup limit", _WRITE, "more memory"),
)


def _groups(name: str) -> list[str]:
    wanted = {
        "cgroup.procs": ("cgroup.procs",),
        "cgroup limit": ("memory.max", "memory.limit_in_bytes", "pids.max"),
        "release_agent": ("release_agent",),
    }[name]
    found = []
    for place in ("/sys/fs/cgroup", "/proc/1/root/sys/fs/cgroup"):
        for folder, _, names in os.walk(place):
            found += [f"{folder}/{each}" for each in names if each in wanted]
            if len(found) > 50:
                return found
    return found


def _candidates(path: str) -> list[str]:
    if path == "the root disk":
        return [f"/dev/{name}" for name in ("vda", "sda", "nvme0n1", "xvda")]
    return [path] if path.startswith("/") else _groups(path)


def _opener(path: str, flags: int) -> Callable[[], str]:
    def run() -> str:
        refusal: OSError = FileNotFoundError(2, "No such file or directory")
        for candidate in _candidates(path):
            try:
                os.close(os.open(candidate, flags | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as error:
                refusal = error
                continue
            return f"opened {candidate}"
        if settings().get("outside"):
            raise NotHereError(f"this machine has none, or keeps it from root: {refusal}")
        raise refusal

    return run


for _name, _family, _path, _flags, _gives in _FILES:
    _run = _opener(_path, _flags)
    _run.__name__ = _name
    _run.__doc__ = f"Opens {_path}: {_gives}."
    attack(
        _family,
        means="not mounted, masked, or not root's",
        stopped_by=("ENOENT", "EACCES", "EPERM", "EROFS", "ENXIO"),
    )(_run)
