"""The server's interceptor: trace, identity and policy, errors, validation, in that order.

One wrapper per method does all four and is built once, when the method is first called. Four
interceptors in a row would cost a coroutine and a handler each, for every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeAlias, cast

import grpc
from agentmesh.common.v1 import options_pb2
from google.protobuf.message import Message
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from meshkit import call_origin
from meshkit import context as mesh_context
from meshkit import identity as mesh_identity
from meshkit import telemetry as mesh_telemetry
from meshkit.active_calls import ActiveCalls
from meshkit.admission import Admission, ServicerContext
from meshkit.call_failures import abort, fail
from meshkit.call_gate import CallGate
from meshkit.call_origin import ORIGIN_HEADER
from meshkit.errors import MeshError
from meshkit.identity import CAPABILITY_HEADER, INTERNAL_HEADER
from meshkit.policy import INFRASTRUCTURE_PREFIXES, MethodRules
from meshkit.served_call import CallListener, ServedCall
from meshkit.telemetry import TRACEPARENT, TRACESTATE, Telemetry
from meshkit.tenant_spans import TENANT_ATTRIBUTE
from meshkit.trace_entry import Vouches, announcement, begin_anew
from meshkit.validation import decoding, validate
from meshkit.watches import Watches

Behavior: TypeAlias = Callable[[Any, Any], Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Check: TypeAlias = Callable[[Any, ServedCall], Any]


class MeshServerInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of the contracts; health and reflection pass."""

    def __init__(
        self,
        rules: Mapping[str, MethodRules],
        admission: Admission,
        telemetry: Telemetry,
        calls: ActiveCalls,
        listener: CallListener | None = None,
        gate: CallGate | None = None,
        vouches: Vouches | None = None,
        watches: Watches | None = None,
    ) -> None:
        self._rules = rules
        self._admission = admission
        self._telemetry = telemetry
        self._spans = telemetry.rpc_spans
        self._calls = calls
        self._listener = listener
        self._gate = gate
        self._vouches = vouches
        self._watches = watches or Watches(0, 0)
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The wrapped handler of the method, the same one for each call."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            inner = await continuation(handler_call_details)
            if inner is None:
                return _unknown_method(method)
            handler = self._handlers[method] = self._wrap(method, inner)
        return handler

    def _wrap(self, method: str, inner: Handler) -> Handler:
        if method.removeprefix("/").startswith(INFRASTRUCTURE_PREFIXES):
            return self._wrap_infrastructure(inner)
        rules = self._rules.get(method)
        if rules is None:  # a service that was not added through ServiceHost.add
            return _unknown_method(method)
        codec = {
            "request_deserializer": decoding(inner.request_deserializer),
            "response_serializer": inner.response_serializer,
        }
        if inner.request_streaming and inner.response_streaming:
            behavior = self._stream_out(rules, _of(inner.stream_stream), _validated_stream)
            return grpc.stream_stream_rpc_method_handler(behavior, **codec)
        if inner.response_streaming:
            behavior = self._stream_out(rules, _of(inner.unary_stream), _validated)
            return grpc.unary_stream_rpc_method_handler(behavior, **codec)
        if inner.request_streaming:
            behavior = self._unary_out(rules, _of(inner.stream_unary), _validated_stream)
            return grpc.stream_unary_rpc_method_handler(behavior, **codec)
        behavior = self._unary_out(rules, _of(inner.unary_unary), _validated)
        return grpc.unary_unary_rpc_method_handler(behavior, **codec)

    def _unary_out(self, rules: MethodRules, behavior: Behavior, check: Check) -> Behavior:
        async def serve(request: Any, context: ServicerContext) -> Any:
            call = self._open(rules, context, request)
            try:
                await self._admit(call, context)
                checked = check(request, call)
                await self._begin(call)
                result = behavior(checked, _context_for(call, context))
                call.response = await result if hasattr(result, "__await__") else result
                return call.response
            except BaseException as error:
                await self._fail(call, context, error)
            finally:
                self._close(call)

        return serve

    def _stream_out(self, rules: MethodRules, behavior: Behavior, check: Check) -> Behavior:
        async def serve(request: Any, context: ServicerContext) -> None:
            call = self._open(rules, context, request)
            try:
                await self._admit(call, context)
                checked = check(request, call)
                await self._begin(call)
                result = behavior(checked, _context_for(call, context))
                if hasattr(result, "__aiter__"):
                    await _forward(result, context)
                elif hasattr(result, "__await__"):
                    await result
            except BaseException as error:
                await self._fail(call, context, error)
            finally:
                self._close(call)

        return serve

    def _wrap_infrastructure(self, inner: Handler) -> Handler:
        """Health watches and the like are bounded, since they need no credentials, and must not
        hold up a drain: they are ended first."""
        if not inner.response_streaming:
            return inner
        behavior = _of(inner.stream_stream or inner.unary_stream)

        async def serve(request: Any, context: ServicerContext) -> None:
            task = self._calls.enter(background=True)
            try:
                with self._watches.one(context.peer()):
                    result = behavior(request, context)
                    await (_forward(result, context) if hasattr(result, "__aiter__") else result)
            except MeshError as refusal:
                await abort(context, refusal)
            except asyncio.CancelledError:
                if self._calls.ended_by_drain(task):
                    await abort(context, MeshError.draining())
                raise
            finally:
                self._calls.leave(task)

        wrap = (
            grpc.stream_stream_rpc_method_handler
            if inner.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return wrap(
            serve,
            request_deserializer=inner.request_deserializer,
            response_serializer=inner.response_serializer,
        )

    def _open(self, rules: MethodRules, context: ServicerContext, request: Any) -> ServedCall:
        """Reads the metadata and starts the span. The task ends with the call: nothing to reset."""
        call = ServedCall(rules, self._calls.enter(), context)
        if isinstance(request, Message):
            call.request = request
        traceparent = tracestate = ""
        for key, value in context.invocation_metadata() or ():
            if key == INTERNAL_HEADER:
                call.internal = str(value)
            elif key == TRACEPARENT:
                traceparent = str(value)
            elif key == CAPABILITY_HEADER:
                call.capability = str(value)
            elif key == TRACESTATE:
                tracestate = str(value)
            elif key == ORIGIN_HEADER:
                call.origin = str(value)
        mesh_telemetry.enter_call(self._telemetry)
        mesh_identity.enter_call(self._admission.identity)
        if not rules.is_control_stream:
            parent = mesh_telemetry.remote_parent(traceparent, tracestate)
            if parent is None or self._vouches is None or self._vouches(context):
                call.span = self._spans.start(rules.full_name, SpanKind.SERVER, parent)
            else:
                call.span = begin_anew(self._spans, rules.full_name, parent)
                call.begins_trace = True
            otel_context.attach(trace.set_span_in_context(call.span, Context()))
        return call

    async def _admit(self, call: ServedCall, context: ServicerContext) -> None:
        if call.begins_trace and call.span is not None:
            await context.send_initial_metadata(announcement(call.span))
        if self._gate is not None:
            self._gate.arrive(call)
        try:
            principal, capability = await self._admission.admit(
                call.rules, context, call.internal, call.capability, call.recognised
            )
        except MeshError:
            if call.principal is not None:  # being refused costs as much as being served
                await self._limit(call)
            raise
        call.principal = principal
        mesh_context.enter_call(principal, capability)
        if call.origin and call.rules.audience == options_pb2.AUDIENCE_INTERNAL:
            call_origin.receive(call_origin.parse(call.origin))
        if call.span is not None and principal is not None and principal.tenant:
            call.span.set_attribute(TENANT_ATTRIBUTE, principal.tenant)
        await self._limit(call)

    async def _limit(self, call: ServedCall) -> None:
        pending = self._gate.limit(call) if self._gate is not None else None
        if pending is not None:
            await pending

    async def expected(self, method: str, principal: mesh_context.Principal) -> None:
        """Before an edge that speaks another protocol reads the body of a request: raises MeshError
        if its call would be refused by what limits calls."""
        rules = self._rules.get(method)
        if self._gate is not None and rules is not None:
            await self._gate.expect(rules, principal)

    def refused(self, method: str, call_context: Any, caller: Any, failure: MeshError) -> None:
        """Notes a call that failed before it was one: an edge that speaks another protocol refused
        `caller`, None if nobody was recognised."""
        rules = self._rules.get(method)
        task = asyncio.current_task()
        if rules is None or self._listener is None or task is None:
            return
        call = ServedCall(rules, task, call_context)
        call.principal = caller
        call.failed(failure.code, failure.reason_name)
        self._listener.ended(call)

    async def _begin(self, call: ServedCall) -> None:
        if self._listener is not None:
            await self._listener.admitted(call)

    async def _fail(
        self, call: ServedCall, context: ServicerContext, error: BaseException
    ) -> NoReturn:
        await fail(call, context, error, self._calls)

    def _close(self, call: ServedCall) -> None:
        self._calls.leave(call.task)
        if self._gate is not None:
            self._gate.leave(call)
        if self._listener is not None:
            self._listener.ended(call)
        if call.span is not None:
            call.span.end()


def _of(behavior: Any) -> Behavior:
    """A handler's function of the shape that its flags announce."""
    assert callable(behavior)  # noqa: S101  an invariant of grpc.RpcMethodHandler
    return cast("Behavior", behavior)


def _validated(request: Message, _: ServedCall) -> Message:
    validate(request)
    return request


async def _validated_stream(
    requests: AsyncIterator[Message], call: ServedCall
) -> AsyncIterator[Message]:
    async for request in requests:
        _note(call, request)
        validate(request)
        yield request


def _note(call: ServedCall, request: Any) -> None:
    """Keeps the first request for whoever listens to calls; what cannot be decoded is none."""
    if call.request is None and isinstance(request, Message):
        call.request = request


class _ValidatingContext:
    """A context whose `read` validates; for handlers that read instead of iterating."""

    __slots__ = ("_call", "_context")

    def __init__(self, context: ServicerContext, call: ServedCall) -> None:
        self._context = context
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        request = await self._context.read()
        if request is not grpc.aio.EOF:
            _note(self._call, request)
            validate(request)
        return request


def _context_for(call: ServedCall, context: ServicerContext) -> Any:
    return _ValidatingContext(context, call) if call.rules.client_streaming else context


async def _forward(responses: AsyncIterator[Any], context: ServicerContext) -> None:
    """Writes what a generator yields; closes it whatever happens, so that its `finally` runs."""
    try:
        async for response in responses:
            await context.write(response)
    finally:
        aclose = getattr(responses, "aclose", None)
        if aclose is not None:
            await aclose()


def _unknown_method(method: str) -> Handler:
    async def refuse(_: Any, context: ServicerContext) -> None:
        await abort(context, MeshError.unimplemented(method.removeprefix("/")))

    # The one shape that needs no request: it answers whatever the caller sends.
    return grpc.stream_stream_rpc_method_handler(refuse)
