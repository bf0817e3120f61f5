"""The caller's side of every call: credentials, trace context, deadline, and whose error it is.

These wrap the multicallables of a channel instead of being grpc.aio client interceptors, because
those put a task of their own around every call and a queue before every written message. Here the
native call goes to the caller: cancellation, flow control and speed stay what they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from functools import partial
from typing import Any, TypeAlias

import grpc
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span

from meshkit.call_origin import ORIGIN_HEADER, find_begun
from meshkit.context import SYSTEM, RunCapability, find_capability, find_principal
from meshkit.direct_calls import DirectMethod
from meshkit.errors import SERVICE_ATTRIBUTE, stream_reset
from meshkit.identity import CAPABILITY_HEADER, INTERNAL_HEADER, InternalIdentity
from meshkit.policy import MethodRules
from meshkit.telemetry import STATUS_ATTRIBUTE, TRACEPARENT, Telemetry, context_headers
from meshkit.tenant_spans import TENANT_ATTRIBUTE, tenant_in_scope

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_NONE: frozenset[str] = frozenset()


class CallScope:
    """What all calls of one channel share."""

    def __init__(
        self,
        component: str,
        identity: InternalIdentity,
        telemetry: Telemetry | None,
        rules: Mapping[str, MethodRules],
        default_timeout: float,
    ) -> None:
        self.component = component
        self.identity = identity
        self.default_timeout = default_timeout
        self._spans = telemetry.rpc_spans if telemetry else None
        self._rules = rules

    def start_span(self, path: str) -> Span | None:
        """The client span of a call; None for streams on which services keep in touch."""
        rules = self._rules.get(path)
        if self._spans is None or (rules is not None and rules.is_control_stream):
            return None
        parent = get_current_span().get_span_context()
        span = self._spans.start(path[1:], SpanKind.CLIENT, parent if parent.is_valid else None)
        tenant = tenant_in_scope()
        if tenant:
            span.set_attribute(TENANT_ATTRIBUTE, tenant)
        return span

    def metadata(self, given: Any, span: Span | None) -> Metadata:
        """What the caller gave, completed by credentials and trace context."""
        complete: Metadata = tuple(given) if given else ()
        keys = {key for key, _ in complete} if complete else _NONE
        if INTERNAL_HEADER not in keys:
            token = self.identity.mint(find_principal() or SYSTEM)
            complete += ((INTERNAL_HEADER, token),)
        capability = find_capability()
        if capability is not None and CAPABILITY_HEADER not in keys:
            complete += ((CAPABILITY_HEADER, capability.token),)
        origin = find_begun()
        if origin is not None and ORIGIN_HEADER not in keys:
            complete += ((ORIGIN_HEADER, origin.header()),)
        if span is not None and TRACEPARENT not in keys:
            complete += context_headers(span.get_span_context())
        return complete


def call_headers(
    identity: InternalIdentity, principal: Any, capability: str | RunCapability | None
) -> Metadata:
    """Credentials as metadata."""
    headers: Metadata = ((INTERNAL_HEADER, identity.mint(principal)),)
    if capability:
        token = capability if isinstance(capability, str) else capability.token
        headers += ((CAPABILITY_HEADER, token),)
    return headers


class MeshMultiCallable:
    """A method of a stub."""

    __slots__ = ("_call", "_direct", "_path", "_response_streaming", "_scope", "_timeout")

    def __init__(
        self,
        scope: CallScope,
        path: str,
        call: Callable[..., Any],
        *,
        timeout: float | None,
        response_streaming: bool,
        direct: DirectMethod | None = None,
    ) -> None:
        self._scope = scope
        self._path = path
        self._call = call
        self._timeout = timeout
        self._response_streaming = response_streaming
        self._direct = direct

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        """Starts the call, as the native multicallable does."""
        span = self._scope.start_span(self._path)
        if timeout is None:
            timeout = self._timeout
        try:
            complete = self._scope.metadata(metadata, span)
            if self._direct is not None and not options:
                start = partial(self._start, (request,), timeout, complete, options, span)
                return MeshUnaryCall(
                    self._direct, request, timeout, complete, span, start, self._scope.component
                )
            arguments = () if request is None else (request,)
            call = self._start(arguments, timeout, complete, options, span)
        except BaseException:
            if span is not None:
                span.end()
            raise
        wrapper = MeshStreamCall if self._response_streaming else MeshAnswerCall
        return wrapper(call, self._scope.component)

    def _start(
        self,
        arguments: tuple[Any, ...],
        timeout: float | None,
        metadata: Metadata,
        options: Mapping[str, Any],
        span: Span | None,
    ) -> Any:
        """The native call, which ends the span."""
        call = self._call(*arguments, timeout=timeout, metadata=metadata, **options)
        if span is not None:
            call.add_done_callback(lambda _: end_span(span, _code_of(call)))
        return call


def end_span(span: Span, code: grpc.StatusCode) -> None:
    """Ends the span of a call that ended with `code`."""
    if code is not grpc.StatusCode.OK:
        span.set_attribute(STATUS_ATTRIBUTE, code.value[0])
        span.set_status(Status(StatusCode.ERROR, code.name))
    span.end()


def _code_of(call: Any) -> grpc.StatusCode:
    """The status code of a finished call, without waiting: it has its status already."""
    pending = call.code()
    try:
        pending.send(None)
    except StopIteration as answer:
        code: grpc.StatusCode = answer.value
        return code
    pending.close()
    return grpc.StatusCode.UNKNOWN


class _MeshCall:
    """A native call that names the service in the errors it raises, and tells a stream that broke
    from a server's defect."""

    __slots__ = ("__weakref__", "_call", "_component")

    def __init__(self, call: Any, component: str) -> None:
        self._call = call
        self._component = component

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def _told(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        told = stream_reset(error) or error
        setattr(told, SERVICE_ATTRIBUTE, self._component)
        return told


class MeshAnswerCall(_MeshCall):
    """A native call that answers once; await it."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.aio.AioRpcError as error:
            raise self._told(error) from None


class MeshUnaryCall(_MeshCall):
    """A call with one request that answers once; await it.

    It is made directly if it is awaited at once. Whoever asks it for more than its answer, or does
    something else first, gets a native call.
    """

    __slots__ = ("_arguments", "_begun", "_direct", "_span", "_start")

    def __init__(
        self,
        direct: DirectMethod,
        request: Any,
        timeout: float | None,
        metadata: Metadata,
        span: Span | None,
        start: Callable[[], Any],
        component: str,
    ) -> None:
        super().__init__(None, component)
        self._direct = direct
        self._arguments = request, timeout, metadata
        self._span = span
        self._start = start
        self._begun = asyncio.get_running_loop().call_soon(self._native)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native(), name)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            if self._call is None:
                return (yield from self._directly().__await__())
            return (yield from self._call.__await__())
        except grpc.aio.AioRpcError as error:
            raise self._told(error) from None

    def _native(self) -> Any:
        if self._call is None:
            self._begun.cancel()
            self._call = self._start()
        return self._call

    async def _directly(self) -> Any:
        self._begun.cancel()
        request, timeout, metadata = self._arguments
        code = grpc.StatusCode.CANCELLED
        try:
            call = self._call = self._direct.begin(timeout)
            answer = await call.run(request, metadata)
            code = grpc.StatusCode.OK
            return answer
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise
        finally:
            if self._span is not None:
                end_span(self._span, code)


class MeshStreamCall(_MeshCall):
    """A call that answers with a stream; iterate or read it, not both."""

    __slots__ = ("_messages",)

    def __init__(self, call: Any, component: str) -> None:
        super().__init__(call, component)
        self._messages: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._messages is None:
            self._messages = aiter(self._call)
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._messages or aiter(self))
        except grpc.aio.AioRpcError as error:
            raise self._told(error) from None

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF."""
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._told(error) from None


grpc.aio.Call.register(_MeshCall)
