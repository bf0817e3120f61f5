"""Figures for monitoring: counters and histograms of one process, with a bound on their number.

Names of agents, tools and teams come from users. Beyond some hundred combinations of labels
whatever is new counts as "other", so that nobody can make a service remember ever more of them.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from agentmesh.common.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from meshkit.ids import new_id

FULL_NAME = "agentmesh.common.v1.MetricsService"
OTHER = "other"

_MOST_COMBINATIONS = 300
_LONGEST_LABEL = 64
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Counted(Collector):
    """One counter or histogram; `add` takes its labels in order.

    Numbers are added up here and become metrics when they are read: prometheus_client's own take
    several times as long, and a call counts more than one.
    """

    def __init__(
        self, family: Callable[[], Any], labels: int, bounds: Sequence[float], *, enabled: bool
    ) -> None:
        self._family = family
        self._labels = labels
        self._bounds = bounds
        self._enabled = enabled
        self._lock = threading.Lock()
        self._totals: dict[tuple[str, ...], list[float]] = {}
        """The sum of the values; of a histogram then how many lie in each bucket."""
        if enabled and not labels:
            self._total(())

    def add(self, *labels: str, value: float = 1.0) -> None:
        """Counts `value`: one more for a counter, a time in seconds for a histogram."""
        if not self._enabled:
            return
        with self._lock:
            total = self._totals.get(labels) or self._total(labels)
            total[0] += value
            if self._bounds:
                total[1 + bisect_left(self._bounds, value)] += 1

    def _total(self, labels: tuple[str, ...]) -> list[float]:
        known = tuple(label[:_LONGEST_LABEL] for label in labels)
        if known not in self._totals and len(self._totals) >= _MOST_COMBINATIONS:
            known = (OTHER,) * self._labels
        total = self._totals.get(known)
        if total is None:
            total = self._totals[known] = [0.0] * (len(self._bounds) + 2)
        return total

    def collect(self) -> Iterator[Metric]:
        """What it has counted by now."""
        family = self._family()
        with self._lock:
            totals = {labels: total.copy() for labels, total in self._totals.items()}
        for labels, total in totals.items():
            if self._bounds:
                family.add_metric(labels, self._buckets(total[1:]), total[0])
            else:
                family.add_metric(labels, total[0])
        yield family

    def _buckets(self, counts: list[float]) -> list[tuple[str, float]]:
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(counts), strict=False))


class Metrics:
    """What one service counts. Without `enabled` it counts nothing."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.instance = new_id("ins")
        self.enabled = enabled
        self._registry = CollectorRegistry()

    def counter(self, name: str, description: str, *labels: str) -> Counted:
        """A number that only grows. The exposition adds `_total` to `name`."""
        return self._made(CounterMetricFamily, name, description, labels, ())

    def seconds(self, name: str, description: str, *labels: str) -> Counted:
        """How long something takes."""
        return self._made(HistogramMetricFamily, name, description, labels, SECONDS)

    def _made(
        self,
        kind: Callable[..., Metric],
        name: str,
        description: str,
        labels: tuple[str, ...],
        bounds: Sequence[float],
    ) -> Counted:
        family = partial(kind, name, description, labels=labels)
        made = Counted(family, len(labels), bounds, enabled=self.enabled)
        self._registry.register(made)
        return made

    def exposition(self) -> str:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry).decode() if self.enabled else ""


class MetricsServicer(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Answers with what this process has counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def ReadMetrics(  # noqa: N802  the contract's name
        self, request: metrics_service_pb2.ReadMetricsRequest, context: Any
    ) -> metrics_service_pb2.ReadMetricsResponse:
        """The figures of this replica."""
        return metrics_service_pb2.ReadMetricsResponse(
            instance=self._metrics.instance, exposition=self._metrics.exposition()
        )
