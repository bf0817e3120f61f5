"""Interleaved rounds and the line that reports them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Sample = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Target:
    """The bound of ours / reference."""

    kind: Literal["at most", "at least"]
    ratio: float

    def holds(self, ratio: float) -> bool:
        """True if `ratio` keeps the bound."""
        return ratio <= self.ratio if self.kind == "at most" else ratio >= self.ratio


@dataclass(frozen=True)
class Rounds:
    """Samples taken in turns: reference, ours, reference, ours, …"""

    ours: Sequence[float]
    reference: Sequence[float]

    @property
    def ratio(self) -> float:
        """The median of ours over the median of the reference."""
        return statistics.median(self.ours) / statistics.median(self.reference)


async def interleave(
    ours: Sample, reference: Sample, count: int, unit: str, *, say_every: int = 1
) -> Rounds:
    """Takes `count` samples of each in turns, after one of each that does not count."""
    await reference()
    await ours()
    taken = Rounds([], [])
    for number in range(1, count + 1):
        taken.reference.append(await reference())  # type: ignore[attr-defined]  # built as lists above
        taken.ours.append(await ours())  # type: ignore[attr-defined]  # built as lists above
        if number % say_every == 0:
            print(
                f"round {number}: ours {taken.ours[-1]:.1f} {unit}, "
                f"reference {taken.reference[-1]:.1f} {unit}",
                flush=True,
            )
    return taken


def report(
    name: str,
    unit: str,
    rounds: Rounds,
    *,
    reference_name: str,
    target: Target,
    distribution: bool = False,
    holds_too: bool = True,
    more: Mapping[str, object] | None = None,
) -> None:
    """Prints the result as one line of JSON. `distribution` gives p50, p95, p99 and max of both
    sides instead of their medians alone; `holds_too` says whether other bounds hold; `more` stands
    beside what every result has."""
    summary = _distribution if distribution else _median
    print(
        json.dumps(
            {
                "name": name,
                "unit": unit,
                "ours": summary(rounds.ours),
                "reference": summary(rounds.reference),
                "reference_name": reference_name,
                "ratio": round(rounds.ratio, 3),
                "target": target.ratio,
                "holds": target.holds(rounds.ratio) and holds_too,
                "rounds": len(rounds.ours),
                **(more or {}),
            }
        ),
        flush=True,
    )


def _median(samples: Sequence[float]) -> float:
    return round(statistics.median(samples), 2)


def _distribution(samples: Sequence[float]) -> dict[str, float]:
    ordered = sorted(samples)

    def percentile(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

    return {
        "p50": _median(ordered),
        "p95": percentile(0.95),
        "p99": percentile(0.99),
        "max": round(ordered[-1], 2),
    }
