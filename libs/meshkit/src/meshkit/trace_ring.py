"""The finished spans that a service keeps in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext


class Finished(Protocol):
    """A finished span that is none of the SDK's."""

    def readable(self) -> ReadableSpan:
        """Its form of the SDK."""


class TraceRing(SpanProcessor):
    """Finished spans by trace, bounded; when full, the trace that was idle longest goes first."""

    def __init__(self, max_spans: int = 20_000, max_spans_per_trace: int = 5_000) -> None:
        self._max_spans = max_spans
        self._max_spans_per_trace = max_spans_per_trace
        self._traces: OrderedDict[int, list[ReadableSpan | Finished]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def spans(self, trace_id: str) -> list[ReadableSpan]:
        """The spans of a trace (32 hexadecimal digits) that are still there, oldest first."""
        with self._lock:
            found = list(self._traces.get(int(trace_id, 16), ()))
        spans = [span if isinstance(span, ReadableSpan) else span.readable() for span in found]
        return sorted(spans, key=lambda span: span.start_time or 0)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: only finished spans are kept."""

    def on_end(self, span: ReadableSpan) -> None:
        """Keeps the span."""
        self.keep(span_context(span).trace_id, span)

    def keep(self, trace_id: int, span: ReadableSpan | Finished) -> None:
        """Keeps a span of a trace."""
        with self._lock:
            spans = self._traces.get(trace_id)
            if spans is None:
                spans = self._traces[trace_id] = []
            else:
                self._traces.move_to_end(trace_id)
            if len(spans) >= self._max_spans_per_trace:
                return
            spans.append(span)
            self._count += 1
            while self._count > self._max_spans:
                self._count -= len(self._traces.popitem(last=False)[1])


def span_context(span: ReadableSpan) -> SpanContext:
    """The span's own context; a finished span has one."""
    return span.get_span_context() or INVALID_SPAN_CONTEXT
