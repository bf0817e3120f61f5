"""Ends tasks that run beside the calls: loops, watches, what looks after something."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

_log = logging.getLogger(__name__)


async def stop(
    *tasks: asyncio.Task[Any] | None, expected: tuple[type[BaseException], ...] = ()
) -> None:
    """Cancels all of them, then returns when the last one has ended; None is no task.

    What a task failed with is logged unless it is `expected`: nobody else would hear of it. If
    the caller is cancelled meanwhile, that goes through; the tasks end in their own time then.
    """
    for task in tasks:
        if task is not None:
            task.cancel()
    await ended(*tasks, expected=expected)


async def ended(
    *tasks: asyncio.Task[Any] | None, expected: tuple[type[BaseException], ...] = ()
) -> None:
    """The same for tasks that shall finish their work: nothing is cancelled."""
    waiting = [task for task in tasks if task is not None]
    if not waiting:
        return
    # Not `await task`: a cancellation of the caller would look like the task's own end.
    await asyncio.wait(waiting)
    for task in waiting:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, expected):
            _log.error("%s failed", task.get_name(), exc_info=error)
