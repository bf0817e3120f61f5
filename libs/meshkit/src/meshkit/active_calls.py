"""The calls that a server is serving now, so that a drain can end what is left of them."""

from __future__ import annotations

import asyncio
from typing import Any


class ActiveCalls:
    """Tasks that serve calls."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def enter(self, *, background: bool = False) -> asyncio.Task[Any]:
        """Adds the running task; `background` ones, such as health watches, hold up no drain."""
        task = asyncio.current_task()
        assert task is not None, "grpc.aio serves each call in a task"  # noqa: S101  an invariant
        (self._background if background else self._tasks).add(task)
        return task

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Removes a task that has served its call."""
        self._tasks.discard(task)
        self._background.discard(task)
        self._ended.discard(task)

    def end(self, *, background_only: bool) -> None:
        """Cancels calls that outstay the drain; they answer DRAINING."""
        tasks = set(self._background) if background_only else self._background | self._tasks
        for task in tasks - self._ended:
            self._ended.add(task)
            task.cancel()

    def ended_by_drain(self, task: asyncio.Task[Any]) -> bool:
        """True if `end` cancelled the task; takes the cancellation back so that it can answer."""
        if task not in self._ended:
            return False
        task.uncancel()
        return True
