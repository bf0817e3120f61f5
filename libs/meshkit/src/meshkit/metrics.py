"""Figures for monitoring: counters and histograms of one process, with a bound on their number.

Names of agents, tools and teams come from users. Beyond some hundred combinations of labels
whatever is new counts as "other", so that nobody can make a service remember ever more of them.
"""

from __future__ import annotations

from typing import Any

import prometheus_client
from agentmesh.common.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from meshkit.ids import new_id

FULL_NAME = "agentmesh.common.v1.MetricsService"
OTHER = "other"

_MOST_COMBINATIONS = 300
_LONGEST_LABEL = 64
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

# Times of creation are one series more for each, and nobody asks for them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Counted:
    """One counter or histogram; `add` takes its labels in order."""

    def __init__(self, metric: Counter | Histogram | None, labels: int) -> None:
        self._metric = metric
        self._labels = labels
        self._children: dict[tuple[str, ...], Any] = {}

    def add(self, *labels: str, value: float = 1.0) -> None:
        """Counts `value`: one more for a counter, a time in seconds for a histogram."""
        if self._metric is None:
            return
        child = self._children.get(labels) or self._child(labels)
        if isinstance(self._metric, Counter):
            child.inc(value)
        else:
            child.observe(value)

    def _child(self, labels: tuple[str, ...]) -> Any:
        assert self._metric is not None  # noqa: S101  `add` looked
        if not self._labels:
            return self._metric
        if len(self._children) >= _MOST_COMBINATIONS:
            return self._metric.labels(*[OTHER] * self._labels)
        child = self._metric.labels(*(label[:_LONGEST_LABEL] for label in labels))
        self._children[labels] = child
        return child


class Metrics:
    """What one service counts. Without `enabled` it counts nothing."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.instance = new_id("ins")
        self.enabled = enabled
        self._registry = CollectorRegistry()

    def counter(self, name: str, description: str, *labels: str) -> Counted:
        """A number that only grows. The exposition adds `_total` to `name`."""
        made = Counter(name, description, labels, registry=self._registry)
        return Counted(made if self.enabled else None, len(labels))

    def seconds(self, name: str, description: str, *labels: str) -> Counted:
        """How long something takes."""
        made = Histogram(name, description, labels, registry=self._registry, buckets=SECONDS)
        return Counted(made if self.enabled else None, len(labels))

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
