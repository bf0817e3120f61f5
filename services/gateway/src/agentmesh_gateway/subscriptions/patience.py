"""How long a broken stream is tried again."""

from __future__ import annotations

import asyncio
import random
import time

import grpc
from meshkit.errors import MeshError

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
RETRY_AFTER_SECONDS = 1.0


class Patience:
    """Pauses that grow, from a stream's break until `seconds` later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pause = _FIRST_PAUSE_SECONDS
        self._broken_at: float | None = None

    def reset(self) -> None:
        """The stream works."""
        self._pause = _FIRST_PAUSE_SECONDS
        self._broken_at = None

    async def wait(self, failure: MeshError) -> None:
        """Pauses before another try. Raises `failure` if another one cannot help or time is up."""
        if failure.code is not grpc.StatusCode.UNAVAILABLE:
            raise failure
        now = time.monotonic()
        self._broken_at = now if self._broken_at is None else self._broken_at
        if now + self._pause > self._broken_at + self._seconds:
            raise told_when_to_return(failure)
        # Streams that broke together come back one after the other.
        await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311  spreads load
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)


def told_when_to_return(failure: MeshError) -> MeshError:
    """`failure`, with a time after which to call again."""
    if failure.retry_after is None:
        failure.retry_after = RETRY_AFTER_SECONDS
        failure.status = None
    return failure
