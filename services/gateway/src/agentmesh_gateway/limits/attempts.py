"""Attempts to be somebody, of which so many may fail.

Whoever tries takes a token before anything is asked, and gets it back if the attempt was none to
count: however many try at once, no more of them fail than there are tokens. Those that find none
wait while others of their site are being judged, whose tokens may come back, so that many guests of
one address can arrive at once; if nobody is, they are refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from meshkit.counts import Counts
from meshkit.errors import MeshError, QuotaViolation

from agentmesh_gateway.limits.buckets import LocalBuckets, Rate, Take

Judged = TypeVar("Judged")


class Attempts:
    """Attempts by site. `quota` says in words what `rate` allows of what."""

    def __init__(self, buckets: LocalBuckets, rate: Rate, quota: str) -> None:
        self._buckets = buckets
        self._rate = rate
        self._quota = quota
        self._under_way = Counts()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def judged(self, site: str, judge: Callable[[], Awaitable[Judged]]) -> Judged:
        """What `judge` says. The attempt counts if it says UNAUTHENTICATED. Raises MeshError
        RATE_LIMITED instead of asking it where too many failed."""
        take = Take(site, self._rate)
        # Nothing is awaited in between: who comes at the same time finds the token gone.
        while not (verdict := self._buckets.take((take,))).granted:
            if not self._under_way[site]:
                raise self._refusal(site, verdict.retry_in)
            await self._turn(site)
        self._under_way.add((site,))
        failed = False
        try:
            return await judge()
        except MeshError as error:
            failed = error.code is grpc.StatusCode.UNAUTHENTICATED
            raise
        finally:
            self._under_way.remove((site,))
            if not failed:
                self._buckets.give_back(take)
                self._wake(site)
            if not self._under_way[site]:
                self._wake_all(site)

    def failed(self, site: str) -> None:
        """Counts one that was not expected to fail."""
        self._buckets.take((Take(site, self._rate),))

    async def _turn(self, site: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(site, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._wake(site)  # it was our turn, and is that of the next one
            raise

    def _wake(self, site: str) -> None:
        waiting = self._waiting.get(site)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        if not waiting:
            self._waiting.pop(site, None)

    def _wake_all(self, site: str) -> None:
        while site in self._waiting:
            self._wake(site)

    def _refusal(self, site: str, retry_in: float) -> MeshError:
        error = MeshError.rate_limited(f"your address has used up its {self._quota}", retry_in)
        error.quotas = (QuotaViolation(f"address:{site}", self._quota),)
        return error
