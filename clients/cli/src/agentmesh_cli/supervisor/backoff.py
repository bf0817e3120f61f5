"""How long to wait before a service that died is started again."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BackoffPolicy:
    """Exponential back-off; all times in seconds.

    A service that served for `stable_after` or longer starts again at `first`: one crash of a
    healthy service costs next to nothing, a service that cannot start does not spin.
    """

    first: float = 0.2
    factor: float = 2.0
    ceiling: float = 3.0
    stable_after: float = 5.0


class Backoff:
    """The back-off of one service."""

    def __init__(self, policy: BackoffPolicy) -> None:
        self._policy = policy
        self._failures = 0

    def next_delay(self, served_seconds: float) -> float:
        """Seconds to wait after a life in which the service served for `served_seconds`."""
        if served_seconds >= self._policy.stable_after:
            self._failures = 0
        # The exponent is bounded before the power is taken: a service may fail for days.
        delay = self._policy.first * self._policy.factor ** min(self._failures, 32)
        self._failures += 1
        return min(delay, self._policy.ceiling)
