"""How attacks on the kernel's surface are entered, and what stops them."""

from __future__ import annotations

from functools import partial

from .attack import attack

FILTER = "seccomp allow list"
ARGUMENTS = "seccomp, by argument"
NO_RIGHTS = "no capabilities, user namespace"
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x4000000, 0x10000000, 0x40000000

kernel = partial(attack, "kernel")
filtered = partial(kernel, means=FILTER, stopped_by=("ENOSYS",))
