"""Ties the life of a child process to that of its parent (Linux)."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None] | None:
    """What a child has to run between fork and exec so that it is killed when its parent dies.

    None where the kernel has no such thing. The library is loaded here, in the parent: between
    fork and exec only async-signal-safe work is allowed.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        # SIGKILL and not SIGTERM: nobody is left who would wait for a drain, and whoever starts
        # the mesh again at once must find its ports free.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return in_child
