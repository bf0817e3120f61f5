"""The figures of the whole mesh: those of this process, and those that other services have counted.

A call reaches one replica of a service, and the next call perhaps another one. The newest figures
of every replica are kept and added up, so that what is shown never goes back while this process
lives, and what a replica has counted stays when it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

import grpc
from agentmesh.common.v1.metrics_service_pb2 import ReadMetricsRequest
from agentmesh.common.v1.metrics_service_pb2_grpc import MetricsServiceStub
from meshkit.context import SYSTEM, principal_scope
from meshkit.metrics import Metrics
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_TIMEOUT_SECONDS = 2.0
_MOST_REPLICAS = 1000


class MeshMetrics:
    """Gathers when it is asked to."""

    def __init__(self, own: Metrics, channels: Mapping[str, grpc.aio.Channel]) -> None:
        self._own = own
        self._stubs = {name: MetricsServiceStub(channel) for name, channel in channels.items()}
        self._heard: dict[str, list[Metric]] = {}

    async def exposition(self) -> str:
        """Everything, in Prometheus' text format."""
        answers = await asyncio.gather(*(self._ask(name) for name in self._stubs))
        up = GaugeMetricFamily(
            "agentmesh_up", "Whether a service answered with its figures.", labels=["service"]
        )
        for name, answered in zip(self._stubs, answers, strict=True):
            up.add_metric([name], float(answered))
        registry = CollectorRegistry()
        registry.register(_Families([up, *added_up(self._heard.values())]))
        return self._own.exposition() + generate_latest(registry).decode()

    async def _ask(self, name: str) -> bool:
        try:
            with principal_scope(SYSTEM):
                answer = await self._stubs[name].ReadMetrics(
                    ReadMetricsRequest(), timeout=_TIMEOUT_SECONDS
                )
        except grpc.aio.AioRpcError:
            return False
        self._heard.pop(answer.instance, None)
        self._heard[answer.instance] = list(text_string_to_metric_families(answer.exposition))
        if len(self._heard) > _MOST_REPLICAS:
            del self._heard[next(iter(self._heard))]
        return True


def added_up(replicas: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Counters and histograms of several replicas as if one had counted."""
    families: dict[str, Metric] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for replica in replicas:
        for family in replica:
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            found = sums.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                found[key] = found.get(key, 0.0) + sample.value
    for name, family in families.items():
        for (sample_name, labels), value in sums[name].items():
            family.add_sample(sample_name, dict(labels), value)
    return list(families.values())


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """What is written out."""
        yield from self._families
