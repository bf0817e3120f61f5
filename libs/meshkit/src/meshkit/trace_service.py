"""agentmesh.common.v1.TraceService: the spans that this replica remembers."""

from __future__ import annotations

from typing import Any

from agentmesh.common.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from meshkit.context import current_principal
from meshkit.telemetry import Telemetry
from meshkit.tenant_spans import belongs_to
from meshkit.trace_ring import span_context

FULL_NAME = "agentmesh.common.v1.TraceService"


class TraceServicer(trace_service_pb2_grpc.TraceServiceServicer):
    """Answers from the ring. Spans that are not known to be the tenant's are left out."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def ListSpans(  # noqa: N802  the contract's name
        self, request: trace_service_pb2.ListSpansRequest, context: Any
    ) -> trace_service_pb2.ListSpansResponse:
        """The spans of one trace."""
        tenant = current_principal().tenant
        spans = self._telemetry.ring.spans(request.trace_id)
        return trace_service_pb2.ListSpansResponse(
            spans=[
                span_message(span, self._telemetry.service)
                for span in spans
                if belongs_to(span, tenant)
            ]
        )


def span_message(span: ReadableSpan, service: str) -> trace_service_pb2.Span:
    """A finished span as the contract has it."""
    own = span_context(span)
    message = trace_service_pb2.Span(
        trace_id=f"{own.trace_id:032x}",
        span_id=f"{own.span_id:016x}",
        parent_span_id=f"{span.parent.span_id:016x}" if span.parent else "",
        name=span.name,
        service=service,
        attributes={key: str(value) for key, value in (span.attributes or {}).items()},
        failed=span.status.status_code is StatusCode.ERROR,
        status_message=span.status.description or "",
    )
    message.start_time.FromNanoseconds(span.start_time or 0)
    message.end_time.FromNanoseconds(span.end_time or 0)
    return message
