"""One trace, gathered from every service that remembers a part of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from agentmesh.common.v1.trace_service_pb2 import ListSpansRequest, Span
from agentmesh.common.v1.trace_service_pb2_grpc import TraceServiceStub
from meshkit.context import current_principal
from meshkit.tenant_spans import belongs_to
from meshkit.trace_ring import TraceRing
from meshkit.trace_service import span_message

_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Trace:
    """Spans by start time, and the services that could not be asked."""

    trace_id: str
    spans: list[Span]
    unreachable: list[str]


class TraceCollector:
    """Asks the other services, and this one's own memory."""

    def __init__(
        self, service: str, ring: TraceRing, channels: Mapping[str, grpc.aio.Channel]
    ) -> None:
        self._service = service
        self._ring = ring
        self._stubs = {name: TraceServiceStub(channel) for name, channel in channels.items()}

    async def collect(self, traceparent: str) -> Trace:
        """The trace of a W3C traceparent; an empty one if that is empty."""
        parts = traceparent.split("-")
        if len(parts) < 4:
            return Trace("", [], [])
        trace_id = parts[1]
        names = list(self._stubs)
        answers = await asyncio.gather(*(self._ask(name, trace_id) for name in names))
        spans = self._own(trace_id)
        unreachable: list[str] = []
        for name, answer in zip(names, answers, strict=True):
            if answer is None:
                unreachable.append(name)
            else:
                spans.extend(answer)
        spans.sort(key=lambda span: span.start_time.ToNanoseconds())
        return Trace(trace_id, spans, unreachable)

    async def _ask(self, name: str, trace_id: str) -> list[Span] | None:
        try:
            answer = await self._stubs[name].ListSpans(
                ListSpansRequest(trace_id=trace_id), timeout=_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError:
            return None
        return list(answer.spans)

    def _own(self, trace_id: str) -> list[Span]:
        tenant = current_principal().tenant
        return [
            span_message(span, self._service)
            for span in self._ring.spans(trace_id)
            if belongs_to(span, tenant)
        ]
