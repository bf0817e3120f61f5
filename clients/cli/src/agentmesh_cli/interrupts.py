"""Ctrl-C and SIGTERM as something that can be awaited."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from agentmesh_cli.errors import EXIT_INTERRUPTED, CliError

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While this is entered, signals do not end the process: `wait` returns with each of them.

    `on_repeat` is called for every signal after the first.
    """

    def __init__(self, on_repeat: Callable[[], None] = lambda: None) -> None:
        self._queue: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._on_repeat = on_repeat
        self._seen = 0

    async def wait(self) -> signal.Signals:
        """The next signal."""
        return await self._queue.get()

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; the next signal cancels it and raises CliError."""
        working = asyncio.ensure_future(work)
        signalled = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait({working, signalled}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                if signalled.done():  # too late for this work: it is for whoever waits next
                    self._queue.put_nowait(signalled.result())
                return working.result()
            raise CliError("interrupted", exit_status=EXIT_INTERRUPTED)
        finally:
            signalled.cancel()
            working.cancel()

    def _received(self, which: signal.Signals) -> None:
        self._seen += 1
        if self._seen > 1:
            self._on_repeat()
        self._queue.put_nowait(which)

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for which in _SIGNALS:
            loop.add_signal_handler(which, self._received, which)
        return self

    def __exit__(self, *exception: object) -> None:
        loop = asyncio.get_running_loop()
        for which in _SIGNALS:
            loop.remove_signal_handler(which)
