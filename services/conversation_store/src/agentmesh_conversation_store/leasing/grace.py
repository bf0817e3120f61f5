"""When leases may end: not while their holders could not renew them."""

from __future__ import annotations

import time
from collections.abc import Callable


class Grace:
    """One lease period from the start of the store, and from each return of its database.

    Whoever held a lease when the database went away could not renew it; with the grace it can,
    before the lease is given to somebody else. A database that hangs is away as well, and so is
    a store that stands still: more than `slow` seconds without an answer count as an outage.
    """

    def __init__(
        self, period: float, slow: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._period = period
        self._slow = slow
        self._clock = clock
        self._ends: float | None = None
        self._answered_at = clock()

    def start(self) -> None:
        """The store begins to serve."""
        self._answered_at = self._clock()
        self._ends = self._answered_at + self._period

    def lost(self) -> None:
        """The database does not answer: from now on no lease may end."""
        self._ends = None

    def answered(self) -> None:
        """The database answers."""
        now = self._clock()
        if self._ends is None or now - self._answered_at > self._slow:
            self._ends = now + self._period
        self._answered_at = now

    @property
    def is_over(self) -> bool:
        """True if leases that ran out may end."""
        return self._ends is not None and self._clock() >= self._ends
