"""Mounts and namespaces: another view of the machine than the one that was given."""

from __future__ import annotations

import os
import signal
import tempfile

from .calls import buffer, call
from .surface import (
    ARGUMENTS,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    filtered,
    kernel,
)


@filtered()
def mounting() -> str:
    """mount of a new file system."""
    with tempfile.TemporaryDirectory() as folder:
        call("mount", b"none", folder.encode(), b"tmpfs", 0, 0)
        call("umount2", folder.encode(), 2)
    return "mounted"


@filtered()
def mounting_with_the_new_calls() -> str:
    """fsopen, fsconfig, fsmount, move_mount."""
    context = call("fsopen", b"tmpfs", 0)
    call("fsconfig", context, 6, 0, 0, 0)
    mounted = call("fsmount", context, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        call("move_mount", mounted, b"", -100, folder.encode(), 4)
        call("umount2", folder.encode(), 2)
    return "mounted"


@filtered()
def cloning_a_mount() -> str:
    """open_tree of everything that is mounted."""
    return f"descriptor {call('open_tree', -100, b'/', 1)}"


@filtered()
def making_read_only_mounts_writable() -> str:
    """mount_setattr takes the read-only flag from a mount."""
    call("mount_setattr", -100, b"/", 0, buffer("QQQQ", 0, 1, 0, 0), 32)
    return "writable"


@filtered()
def moving_a_mount() -> str:
    """move_mount alone, of a tree that a descriptor holds."""
    tree = -100
    try:
        tree = call("open_tree", -100, b"/", 1)
    except OSError:
        pass
    with tempfile.TemporaryDirectory() as folder:
        call("move_mount", tree, b"", -100, folder.encode(), 4)
        call("umount2", folder.encode(), 2)
    return "moved"


@filtered()
def changing_the_root_mount() -> str:
    """pivot_root."""
    folder = tempfile.mkdtemp()
    try:
        call("unshare", CLONE_NEWNS)
        call("mount", b"none", b"/", 0, 0x44000, 0)
        call("mount", b"none", folder.encode(), b"tmpfs", 0, 0)
    except OSError:
        pass
    os.chdir(folder)
    call("pivot_root", b".", b".")
    return "another root"


@filtered()
def changing_the_root_folder() -> str:
    """chroot, the first half of the classical escape from one."""
    call("chroot", b".")
    return "another root"


@filtered()
def new_user_namespace() -> str:
    """unshare of a user namespace, in which one is root."""
    call("unshare", CLONE_NEWUSER)
    return f"uid {os.geteuid()} in a namespace of its own"


@filtered()
def new_network_namespace() -> str:
    """unshare of a network namespace with rights of its own."""
    call("unshare", CLONE_NEWNET)
    return "a network namespace"


def _forked(pid: int) -> str:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0x40000000)
    return f"child {pid}"


@kernel(means=ARGUMENTS, stopped_by=("EPERM",))
def new_namespace_by_clone() -> str:
    """clone with CLONE_NEWUSER, which no filter of call numbers stops."""
    return _forked(call("clone", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0))


@filtered()
def new_namespace_by_clone3() -> str:
    """clone3, whose flags no filter can see."""
    return _forked(
        call("clone3", buffer("8Q", CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
    )


@filtered()
def entering_a_namespace() -> str:
    """setns into a namespace that /proc shows."""
    call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), CLONE_NEWUTS)
    return "entered"
