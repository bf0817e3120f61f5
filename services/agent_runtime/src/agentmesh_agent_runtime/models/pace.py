"""Keeps the requests of a profile to a number per minute."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

from agentmesh_agent_runtime.models.patience import LONGEST_WAIT
from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece, ReplySource
from agentmesh_agent_runtime.turns.failures import ModelBusy


class Pace:
    """Lets at most `requests` begin within any `seconds`, first come, first served.

    A wait of more than `longest_wait` seconds is refused at once, so that the turn can be given
    back or another profile be asked.
    """

    def __init__(
        self,
        requests: int,
        *,
        seconds: float = 60.0,
        longest_wait: float = LONGEST_WAIT,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests = requests
        self._seconds = seconds
        self._longest_wait = longest_wait
        self._clock = clock
        self._sleep = sleep
        # When the newest requests began or will begin, oldest first: never more than `requests`.
        self._starts: deque[float] = deque(maxlen=requests)

    async def wait(self) -> None:
        """Returns when the next request may begin. Raises ModelBusy if that is too far off."""
        now = self._clock()
        start = now
        if len(self._starts) == self._requests:
            start = max(now, self._starts[0] + self._seconds)
        wait = start - now
        if wait > self._longest_wait:
            raise ModelBusy(
                f"the model profile takes {self._requests} requests in {self._seconds:g} seconds, "
                "and those are used up",
                retry_after=wait,
            )
        # A waiter that is cancelled leaves its start behind: fewer requests, never more.
        self._starts.append(start)
        if wait > 0:
            await self._sleep(wait)


class PacedReplySource:
    """A model that is asked at its profile's pace."""

    def __init__(self, source: ReplySource, pace: Pace) -> None:
        self._source = source
        self._pace = pace
        self.provider = source.provider
        self.model = source.model
        self.info = source.info

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource. Raises ModelBusy too."""
        await self._pace.wait()
        async for piece in self._source.stream(request):
            yield piece
