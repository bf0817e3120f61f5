"""Spans of calls, made for the hot path.

The SDK's own span takes some 30 µs with its locks, bounded collections and copies: twice per call,
that is a tenth of the throughput. This one keeps the same data and becomes an SDK span when it is
wanted: by an exporter at its end, or by whoever asks the ring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import time_ns

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from meshkit.trace_ring import TraceRing

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_DROPPED = TraceFlags(TraceFlags.DEFAULT)
_UNSET = Status(StatusCode.UNSET)


class RpcSpan(Span):
    """One recorded call. Used by the one task that serves or makes the call: no locks."""

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        factory: RpcSpans,
    ) -> None:
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._factory = factory
        self._attributes: dict[str, AttributeValue] = {}
        self._events: tuple[Event, ...] = ()
        self._links: tuple[Link, ...] = ()
        self._status = _UNSET
        self._start_time = time_ns()
        self._end_time = 0

    def get_span_context(self) -> SpanContext:
        """Trace and span id."""
        return self._context

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """One attribute; after the end it is lost."""
        if not self._end_time:
            self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Several attributes."""
        if not self._end_time:
            self._attributes.update(attributes)

    def add_event(
        self,
        name: str,
        attributes: Mapping[str, AttributeValue] | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Something that happened, now or at `timestamp` (nanoseconds)."""
        if not self._end_time:
            event = Event(name, attributes, timestamp or time_ns())
            self._events = (*self._events, event)

    def add_link(
        self, context: SpanContext, attributes: Mapping[str, AttributeValue] | None = None
    ) -> None:
        """Another span that has to do with this one."""
        if not self._end_time:
            self._links = (*self._links, Link(context, attributes))

    def update_name(self, name: str) -> None:
        """Another name."""
        if not self._end_time:
            self._name = name

    def is_recording(self) -> bool:
        """True until the end."""
        return not self._end_time

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """How it went."""
        if not self._end_time:
            self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, AttributeValue] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """The type of an exception; its message may carry what users wrote."""
        self.add_event(
            "exception",
            {"exception.type": type(exception).__name__, **(attributes or {})},
            timestamp,
        )

    def end(self, end_time: int | None = None) -> None:
        """Hands the span to the ring and the exporter, once."""
        if not self._end_time:
            self._end_time = end_time or time_ns()
            self._factory.finish(self)

    def readable(self) -> ReadableSpan:
        """The SDK's form of it, after its end."""
        return ReadableSpan(
            name=self._name,
            context=self._context,
            parent=self._parent,
            resource=self._factory.provider.resource,
            attributes=self._attributes,
            events=self._events,
            links=self._links,
            kind=self._kind,
            status=self._status,
            start_time=self._start_time,
            end_time=self._end_time,
        )


class RpcSpans:
    """Makes the call spans of one service, under the sampler of its provider."""

    def __init__(
        self, provider: TracerProvider, ring: TraceRing, exporters: Sequence[SpanProcessor]
    ) -> None:
        self.provider = provider
        self._ring = ring
        self._exporters = tuple(exporters)
        self._samples_by_parent = provider.sampler is DEFAULT_ON

    def start(self, name: str, kind: SpanKind, parent: SpanContext | None) -> Span:
        """A span below `parent`, or at the root of a new trace."""
        ids = self.provider.id_generator
        trace_id = parent.trace_id if parent is not None else ids.generate_trace_id()
        sampled = self._is_sampled(name, kind, parent, trace_id)
        context = SpanContext(
            trace_id,
            ids.generate_span_id(),
            is_remote=False,
            trace_flags=_SAMPLED if sampled else _DROPPED,
            trace_state=parent.trace_state if parent is not None else None,
        )
        if not sampled:
            return NonRecordingSpan(context)
        return RpcSpan(name, context, parent, kind, self)

    def finish(self, span: RpcSpan) -> None:
        """Passes a finished span on."""
        self._ring.keep(span.get_span_context().trace_id, span)
        for exporter in self._exporters:
            exporter.on_end(span.readable())

    def _is_sampled(
        self, name: str, kind: SpanKind, parent: SpanContext | None, trace_id: int
    ) -> bool:
        if self._samples_by_parent:
            return parent is None or parent.trace_flags.sampled
        context = Context()
        if parent is not None:
            context = trace.set_span_in_context(NonRecordingSpan(parent), context)
        result = self.provider.sampler.should_sample(context, trace_id, name, kind)
        return result.decision is Decision.RECORD_AND_SAMPLE
