"""Messages that begin and do not end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class MessagePace:
    """Calls `too_slow` if of a message under way less came than `bytes_per_second` on average over
    `seconds`; 0 of either is no limit. `came` says how much of it there is."""

    def __init__(
        self,
        bytes_per_second: int,
        seconds: float,
        came: Callable[[], int],
        too_slow: Callable[[], None],
    ) -> None:
        self._wanted = bytes_per_second * seconds
        self._seconds = seconds
        self._came = came
        self._too_slow = too_slow
        self._before = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is a limit."""
        return bool(self._wanted)

    def go_on(self) -> None:
        """A message is under way, and its sender may send; the second call does nothing."""
        if self._timer is None and self._wanted:
            self._before = self._came()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._judge)

    def rest(self) -> None:
        """None is under way, or its sender has to wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _judge(self) -> None:
        self._timer = None
        if self._came() - self._before < self._wanted:
            self._too_slow()
        else:
            self.go_on()
