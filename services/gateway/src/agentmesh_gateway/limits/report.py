"""What a caller is told of its limits, in the header fields of the IETF's draft.

`RateLimit-Policy` names each limit with its quota and the seconds in which that comes back;
`RateLimit` says how many calls are left and when it is full again, or when the next call fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from agentmesh_gateway.limits.buckets import Rate, Standing

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Line:
    """One limit and how the caller stands."""

    name: str
    rate: Rate
    standing: Standing


class RateReport:
    """Filled in by what limits the call; read by the edge that answers it."""

    def __init__(self) -> None:
        self._lines: Sequence[Line] = ()

    def fill(self, lines: Sequence[Line]) -> None:
        """Says how the caller stands now."""
        self._lines = lines

    def headers(self) -> Headers:
        """As response headers; none if nothing limits the call."""
        if not self._lines:
            return []
        policies = (
            f'"{line.name}";q={int(line.rate.burst)};w={math.ceil(line.rate.tolerance)}'
            for line in self._lines
        )
        standings = (
            f'"{line.name}";r={line.standing.remaining}'
            f";t={math.ceil(line.standing.retry_in or line.standing.full_in)}"
            for line in self._lines
        )
        return [
            (b"ratelimit-policy", ", ".join(policies).encode()),
            (b"ratelimit", ", ".join(standings).encode()),
        ]


_report: ContextVar[RateReport | None] = ContextVar("agentmesh_rate_report", default=None)


def expect_report() -> RateReport:
    """The report of the call that the running task serves, to be filled in."""
    report = RateReport()
    _report.set(report)
    return report


def find_report() -> RateReport | None:
    """The report that somebody expects, if anybody."""
    return _report.get()
