"""Latencies of rounds that were taken in turns, and the line that reports them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.harness.rounds import Target


@dataclass(frozen=True)
class Latencies:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Latencies:
        """Of one round."""
        ordered = sorted(samples)
        last = len(ordered) - 1

        def percentile(share: float) -> float:
            return ordered[min(last, int(share * len(ordered)))]

        return cls(percentile(0.5), percentile(0.95), percentile(0.99), ordered[last])

    @classmethod
    def median(cls, rounds: Sequence[Latencies]) -> Latencies:
        """The median round, each percentile for itself."""

        def middle(name: str) -> float:
            values: list[float] = [getattr(one, name) for one in rounds]
            return statistics.median(values)

        return cls(middle("p50"), middle("p95"), middle("p99"), middle("max"))

    def rounded(self) -> dict[str, float]:
        """For reports."""
        return {name: round(getattr(self, name), 3) for name in ("p50", "p95", "p99", "max")}


def report_latencies(
    name: str,
    ours: Sequence[Latencies],
    reference: Sequence[Latencies],
    *,
    ratio: float,
    target: Target,
    reference_name: str,
    more: Mapping[str, object],
) -> None:
    """Prints the result as one line of JSON; `more` stands beside what every result has."""
    print(
        json.dumps(
            {
                "name": name,
                "unit": "ms",
                "ours": Latencies.median(ours).rounded(),
                "reference": Latencies.median(reference).rounded(),
                "reference_name": reference_name,
                "ratio": round(ratio, 3),
                "target": target.ratio,
                "holds": target.holds(ratio),
                "rounds": len(ours),
                **more,
            }
        ),
        flush=True,
    )


def report_bounds(
    name: str,
    ours: Sequence[float],
    reference: Sequence[float],
    *,
    bounds: Mapping[str, float],
    reference_name: str,
    more: Mapping[str, object] | None = None,
) -> None:
    """Prints the result as one line of JSON, where percentiles of ours have bounds in milliseconds
    of their own; the ratio is that of the medians."""
    mine, theirs = Latencies.of(ours), Latencies.of(reference)
    print(
        json.dumps(
            {
                "name": name,
                "unit": "ms",
                "ours": mine.rounded(),
                "reference": theirs.rounded(),
                "reference_name": reference_name,
                "ratio": round(mine.p50 / theirs.p50, 3),
                "target": dict(bounds),
                "holds": all(getattr(mine, name) <= bound for name, bound in bounds.items()),
                "rounds": len(ours),
                **(more or {}),
            }
        ),
        flush=True,
    )
