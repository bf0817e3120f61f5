"""Token buckets, as the generic cell rate algorithm keeps them: one instant for each key.

The instant is when the bucket will be full again. How far it lies ahead is the backlog; a call adds
the time that one token takes to come back, and does not fit if the backlog would exceed the burst.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls a second, of which `burst` may come at once."""

    per_second: float
    burst: float

    @property
    def interval(self) -> float:
        """Seconds in which one token comes back."""
        return 1 / self.per_second

    @property
    def tolerance(self) -> float:
        """Seconds in which an empty bucket fills."""
        return self.burst / self.per_second

    def share(self, of: int) -> Rate:
        """What each of `of` replicas may give of it; at least one call at once."""
        return Rate(self.per_second / of, max(1.0, self.burst / of))


@dataclass(frozen=True, slots=True)
class Take:
    """One token, wanted from the bucket of `key`."""

    key: str
    rate: Rate


@dataclass(frozen=True, slots=True)
class Standing:
    """How a bucket stands."""

    remaining: int
    full_in: float
    """Seconds until it is full."""
    retry_in: float
    """Seconds until it has a token; 0 if it has one."""


@dataclass(slots=True)
class Verdict:
    """Whether all tokens were taken, or none. How the buckets stand then is worked out only for who
    asks: most callers are never told."""

    granted: bool
    takes: Sequence[Take]
    backlogs: Sequence[float]
    """Of each bucket, in seconds."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How the buckets stand, in the order asked."""
        return tuple(
            standing(take.rate, backlog)
            for take, backlog in zip(self.takes, self.backlogs, strict=True)
        )

    @property
    def refused_by(self) -> int:
        """Which of the buckets refuses for the longest."""
        waits = [standing.retry_in for standing in self.standings]
        return waits.index(max(waits))

    @property
    def retry_in(self) -> float:
        """Seconds until no bucket refuses any more."""
        return max(standing.retry_in for standing in self.standings)

    def later(self, seconds: float) -> Verdict:
        """The same, when so much time has passed."""
        left = [max(0.0, backlog - seconds) for backlog in self.backlogs]
        return Verdict(self.granted, self.takes, left)


# The backlog is a sum of fractions.
_ROUNDING = 1e-9


class Buckets(Protocol):
    """Where buckets are kept."""

    def take(self, takes: Sequence[Take]) -> Verdict | Awaitable[Verdict]:
        """Takes one token from each bucket, or none from any."""


def standing(rate: Rate, backlog: float) -> Standing:
    """How a bucket with this backlog, in seconds, stands."""
    room = rate.tolerance - backlog
    # A tenth of a millionth of a token: the backlog is a sum of fractions.
    remaining = max(0, int(room * rate.per_second + 1e-7))
    retry_in = 0.0 if remaining else max(0.0, rate.interval - room)
    return Standing(remaining, max(0.0, backlog), retry_in)


class LocalBuckets:
    """Buckets of this process.

    Keeps `capacity` of them: beyond that the one goes that was not used for the longest time, which
    forgives what it had taken.
    """

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, takes: Sequence[Take]) -> Verdict:
        """See `Buckets.take`."""
        now = self._clock()
        before: list[float] = []
        after: list[float] = []
        granted = True
        for take in takes:
            rate = take.rate
            backlog = max(0.0, self._full_at.get(take.key, now) - now)
            before.append(backlog)
            after.append(backlog + rate.interval)
            granted = granted and after[-1] <= rate.tolerance + _ROUNDING
        if not granted:
            return Verdict(False, takes, before)
        for take, backlog in zip(takes, after, strict=True):
            self._put(take.key, now + backlog)
        return Verdict(True, takes, after)

    def give_back(self, take: Take) -> None:
        """Puts a token back that was taken."""
        full_at = self._full_at.get(take.key)
        if full_at is not None:
            self._full_at[take.key] = full_at - take.rate.interval

    def _put(self, key: str, full_at: float) -> None:
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._capacity:
            self._full_at.popitem(last=False)
