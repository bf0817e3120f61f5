"""Traces: a tracer per service, spans kept in memory and exported, W3C context in metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from meshkit.rpc_spans import RpcSpans
from meshkit.settings import ServiceSettings
from meshkit.tenant_spans import TenantMarker
from meshkit.trace_ring import TraceRing

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
STATUS_ATTRIBUTE = "rpc.grpc.status_code"

_PATTERN = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SCOPE = "meshkit"


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What one service traces with."""

    service: str
    tracer: trace.Tracer
    ring: TraceRing
    provider: TracerProvider
    rpc_spans: RpcSpans

    def shutdown(self) -> None:
        """Exports what is left; blocks for as long as the exporter takes."""
        self.provider.shutdown()


_configured: Telemetry | None = None
_current: ContextVar[Telemetry | None] = ContextVar("meshkit_telemetry", default=None)


def configure(service: str, settings: ServiceSettings) -> Telemetry:
    """Telemetry of `service`; sampling by OTEL_TRACES_SAMPLER, export by OTLP if it is configured.

    The first one of a process serves the global OpenTelemetry API as well, so that spans of
    libraries join the trace.
    """
    global _configured
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: service}), shutdown_on_exit=False
    )
    ring = TraceRing()
    exporters: list[SpanProcessor] = []
    if settings.otlp_endpoint:
        exporters.append(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint)))
    for processor in (TenantMarker(), ring, *exporters):
        provider.add_span_processor(processor)
    rpc_spans = RpcSpans(provider, ring, exporters)
    telemetry = Telemetry(service, provider.get_tracer(_SCOPE), ring, provider, rpc_spans)
    if _configured is None:
        trace.set_tracer_provider(provider)
    _configured = telemetry
    return telemetry


def enter_call(telemetry: Telemetry) -> None:
    """Makes `telemetry` the one of the running task."""
    _current.set(telemetry)


def current_telemetry() -> Telemetry | None:
    """Of the call being served, else of this process, if configured."""
    return _current.get() or _configured


def tracer() -> trace.Tracer:
    """The tracer for spans of one's own: `with tracer().start_as_current_span("name"): …`."""
    telemetry = current_telemetry()
    return telemetry.tracer if telemetry else trace.get_tracer(_SCOPE)


def format_traceparent(context: SpanContext) -> str:
    """The W3C form of a span's context; empty if it is not valid."""
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def current_traceparent() -> str:
    """The W3C traceparent of the current span; empty outside of one."""
    return format_traceparent(trace.get_current_span().get_span_context())


def current_trace_id() -> str:
    """The current trace as 32 hexadecimal digits; empty outside of one."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def inject(metadata: Sequence[tuple[str, str | bytes]] = ()) -> tuple[tuple[str, str | bytes], ...]:
    """`metadata` with the current span's context added."""
    return (*metadata, *context_headers(trace.get_current_span().get_span_context()))


def context_headers(context: SpanContext) -> tuple[tuple[str, str], ...]:
    """The metadata that carries `context`."""
    if not context.is_valid:
        return ()
    if context.trace_state:
        state = context.trace_state.to_header()
        return (TRACEPARENT, format_traceparent(context)), (TRACESTATE, state)
    return ((TRACEPARENT, format_traceparent(context)),)


def extract(metadata: Sequence[tuple[str, str | bytes]]) -> Context:
    """The context that `metadata` carries; an empty one if it carries none or a broken one."""
    values = {key: value for key, value in metadata if key in (TRACEPARENT, TRACESTATE)}
    return remote_context(_text(values.get(TRACEPARENT)), _text(values.get(TRACESTATE)))


def remote_context(traceparent: str, tracestate: str = "") -> Context:
    """A context whose current span is the remote one that `traceparent` names."""
    parent = remote_parent(traceparent, tracestate)
    return trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context()


def remote_parent(traceparent: str, tracestate: str = "") -> SpanContext | None:
    """The span that `traceparent` names; None if it is empty or broken."""
    match = _PATTERN.match(traceparent) if traceparent else None
    if match is None:
        return None
    parent = SpanContext(
        trace_id=int(match[1], 16),
        span_id=int(match[2], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match[3], 16)),
        trace_state=TraceState.from_header([tracestate]) if tracestate else None,
    )
    return parent if parent.is_valid else None


@contextmanager
def start_as_remote_child(
    traceparent: str,
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """A current span that goes on a trace from elsewhere; a new trace if `traceparent` is empty."""
    context = remote_context(traceparent)
    with tracer().start_as_current_span(
        name, context=context, kind=kind, attributes=attributes
    ) as span:
        yield span


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else ""
