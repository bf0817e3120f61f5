"""Families of processes that do the same at once."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from .attack import settings


def family(count: int, work: Callable[[], None], *, seconds: float = 5) -> str:
    """So many children that do the work and hold what they have so long after all are done."""
    done, tell = os.pipe()
    pids = [_start_child(work, tell) for _ in range(count)]
    os.close(tell)
    try:
        _wait_for_all(done, count)
        if not settings().get("outside"):
            time.sleep(seconds)
            _wait_for_all(done, 0)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    return f"{count} processes had it at once"


def _start_child(work: Callable[[], None], tell: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os.write(tell, b".")
        time.sleep(120)
    except BaseException as error:
        print(error, file=sys.stderr)
    os._exit(1)


def _wait_for_all(done: int, count: int) -> None:
    """Raises OSError as soon as one of them has died."""
    finished = 0
    while True:
        ready, _, _ = select.select([done], [], [], 0.02)
        if ready:
            finished += len(os.read(done, 64))
        dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if dead is not None:
            raise OSError(errno.ENOMEM, "one of them died")
        if finished >= count:
            return
