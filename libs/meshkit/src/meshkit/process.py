"""How a service's process asks to be treated by its interpreter, its kernel and gRPC."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os

_YOUNG_OBJECTS = 10_000
"""New containers between two looks at the youngest. Of those that a call makes nearly all are gone
with it, without a look: Python's own 700 spend a tenth of the processor on finding that out."""

_GRPC_SETTINGS = {
    # Its EventEngine reads sockets in threads of its own and hands over to the one that waits for
    # ends of operations: two wake-ups more for each call, a third of the time of a small one. A
    # release without these switches says that it does not know them and goes its own way.
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener,"
    "-event_engine_for_all_other_endpoints",
    # Else it writes a line for each TLS handshake that fails, as many as strangers like.
    "GRPC_VERBOSITY": "error",
}


def import_grpc() -> None:
    """Imports gRPC so that it reads its sockets in the thread that waits for ends of operations,
    and tells of nothing but errors.

    It looks at these settings when it is imported and never again, so child processes do not see
    them. What stands in the environment stays as it is. Where gRPC is not installed, what does not
    need it can be used.
    """
    ours = {name: text for name, text in _GRPC_SETTINGS.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        importlib.import_module("grpc")
    except ModuleNotFoundError as error:
        if error.name != "grpc":
            raise
    finally:
        for name in ours:
            del os.environ[name]


def settle() -> None:
    """Tells the garbage collector that what there is by now stays: modules, descriptors, handlers.

    Looking at all of it again stops the event loop for some 80 ms, every few seconds under load.
    """
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(_YOUNG_OBJECTS, middle, old)


def avoid_preemption() -> None:
    """Asks the kernel not to interrupt whoever runs when a thread of this process wakes up.

    A call wakes several threads and processes one after the other. Where they share few
    processors, each wake-up would stop the one that caused it in the middle of its work. Threads
    that are started later do likewise, and so do child processes. Needs no privilege; where the
    system has no such policy, nothing is changed.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
