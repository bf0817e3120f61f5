"""Coroutines that begin at once instead of in the loop's next round."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any


class Begun:
    """Runs a coroutine up to its first wait, here and now; whoever awaits this runs the rest.

    For the few places where the next round of the event loop is too late. It must be awaited by
    the one task that would have awaited the coroutine, and never by two. Up to its first wait the
    coroutine runs in the task of whoever begins it, so it must not ask for its own task there
    (asyncio.timeout does). What it raises there is raised by the await.
    """

    __slots__ = ("_coroutine", "_ended", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._ended: BaseException | None = None
        self._waits_for: Any = None
        try:
            self._waits_for = coroutine.send(None)
        except BaseException as error:
            self._ended = error

    def __await__(self) -> Generator[Any, Any, None]:
        while self._ended is None:
            try:
                value = yield self._waits_for
            except BaseException as error:
                self._go_on(self._coroutine.throw, error)
            else:
                self._go_on(self._coroutine.send, value)
        if not isinstance(self._ended, StopIteration):
            raise self._ended

    def _go_on(self, step: Any, value: Any) -> None:
        try:
            self._waits_for = step(value)
        except BaseException as error:
            self._ended = error
