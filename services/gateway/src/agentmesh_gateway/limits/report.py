"""What a caller is told of its limits, in the header fields of the IETF's draft.

`RateLimit-Policy` names each limit with its quota and the seconds in which that comes back;
`RateLimit` says how many calls are left and when it is full again, or when the next call fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar

from agentmesh_gateway.limits.buckets import Rate, Standing, Verdict

Headers = list[tuple[bytes, bytes]]


class RateReport:
    """Filled in by what limits the call; read by the edge that answers it."""

    __slots__ = ("_names", "_policy", "_verdict")

    def __init__(self) -> None:
        self._policy = b""
        self._names: Sequence[str] = ()
        self._verdict: Verdict | None = None

    def fill(self, policy: bytes, names: Sequence[str], verdict: Verdict) -> None:
        """Says how the caller stands now, with the limits of these names."""
        self._policy, self._names, self._verdict = policy, names, verdict

    def headers(self) -> Headers:
        """As response headers; none if nothing limits the call."""
        if self._verdict is None:
            return []
        standings = ", ".join(map(_standing, self._names, self._verdict.standings))
        return [(b"ratelimit-policy", self._policy), (b"ratelimit", standings.encode())]


def policy_of(names: Sequence[str], rates: Sequence[Rate]) -> bytes:
    """The limits themselves, as a header says them: the same for all calls of a caller."""
    policies = (
        f'"{name}";q={int(rate.burst)};w={math.ceil(rate.tolerance)}'
        for name, rate in zip(names, rates, strict=True)
    )
    return ", ".join(policies).encode()


def _standing(name: str, standing: Standing) -> str:
    return f'"{name}";r={standing.remaining};t={math.ceil(standing.retry_in or standing.full_in)}'


_report: ContextVar[RateReport | None] = ContextVar("agentmesh_rate_report", default=None)


def expect_report() -> RateReport:
    """The report of the call that the running task serves, to be filled in."""
    report = RateReport()
    _report.set(report)
    return report


def find_report() -> RateReport | None:
    """The report that somebody expects, if anybody."""
    return _report.get()
