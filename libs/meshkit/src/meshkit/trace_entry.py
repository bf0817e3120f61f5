"""Where traces begin.

Whoever sends the id of a trace would be let into it: what they do would stand beside what others
did there, and in what they may see of their own call they would see that. So a service that takes
calls from outside continues traces of callers that it vouches for, and for all others begins a new
one, which remembers theirs as a link and an attribute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from opentelemetry.trace import Span, SpanContext, SpanKind

from meshkit.admission import ServicerContext
from meshkit.rpc_spans import RpcSpans
from meshkit.telemetry import format_traceparent

CLIENT_TRACE_ATTRIBUTE = "agentmesh.client_trace_id"
"""The trace that the caller of a public call named, if it was not continued."""
TRACERESPONSE = "traceresponse"
"""The header that names the new trace to the caller, of the form of a traceparent."""

Vouches: TypeAlias = Callable[[ServicerContext], bool]


def begin_anew(spans: RpcSpans, name: str, client: SpanContext) -> Span:
    """The first span of a new trace, for a caller whose own span is `client`."""
    span = spans.start(name, SpanKind.SERVER, None)
    span.add_link(client)
    span.set_attribute(CLIENT_TRACE_ATTRIBUTE, f"{client.trace_id:032x}")
    return span


def announcement(span: Span) -> tuple[tuple[str, str], ...]:
    """The metadata that names the trace of `span`."""
    return ((TRACERESPONSE, format_traceparent(span.get_span_context())),)
