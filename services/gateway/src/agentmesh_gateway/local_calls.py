"""Calls to this service's own servicers, without a network in between.

They pass the same interceptor as calls that come over gRPC: credentials, policy, validation, errors
and telemetry have one implementation, whoever calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc
from google.rpc.status_pb2 import Status
from meshkit.admission import ServicerContext
from meshkit.context import Principal
from meshkit.errors import STATUS_DETAILS_KEY, MeshError
from meshkit.server_calls import MeshServerInterceptor

from agentmesh_gateway.rest.announcements import announce
from agentmesh_gateway.rest.peer import current_peer

Metadata = tuple[tuple[str, str], ...]
Sink = Callable[[Any], Awaitable[None]]
"""Takes the responses of a stream, one after the other; may wait, and then so does the stream."""


class CallFailedError(Exception):
    """A call ended with an error; `status` is what a gRPC client would have got."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class LocalCalls:
    """Calls methods by their gRPC path, in the running task."""

    def __init__(self, interceptor: MeshServerInterceptor) -> None:
        self._interceptor = interceptor
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add(self, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """Makes methods callable. Servicers may hold these calls before all of them are there."""
        self._handlers.update(handlers)

    async def unary(
        self,
        rpc: str,
        request: Any,
        metadata: Metadata,
        within: ServicerContext | None = None,
        caller: Principal | None = None,
    ) -> tuple[Any, Metadata]:
        """The response and the trailing metadata. Raises CallFailedError.

        `within` is the call that makes this one for its own caller: who that is, it knows. `caller`
        is whom the credentials in `metadata` were just found to be of, if somebody looked already.
        """
        context = LocalContext(metadata, None, within, caller)
        handler = self._wrapped.get(rpc) or await self._wrap(rpc, metadata)
        serve: Any = handler.unary_unary
        try:
            response = await serve(request, context)
        except grpc.aio.AbortError:
            raise CallFailedError(context.status()) from None
        return response, context.trailing

    async def upload(
        self, rpc: str, requests: AsyncIterator[Any], metadata: Metadata
    ) -> tuple[Any, Metadata]:
        """As `unary`, of a stream of requests."""
        context = LocalContext(metadata, None)
        handler = self._wrapped.get(rpc) or await self._wrap(rpc, metadata)
        serve: Any = handler.stream_unary
        try:
            response = await serve(requests, context)
        except grpc.aio.AbortError:
            raise CallFailedError(context.status()) from None
        return response, context.trailing

    async def stream(self, rpc: str, request: Any, metadata: Metadata, sink: Sink) -> None:
        """Feeds every response to `sink`. Raises CallFailedError."""
        context = LocalContext(metadata, sink)
        handler = self._wrapped.get(rpc) or await self._wrap(rpc, metadata)
        serve: Any = handler.unary_stream
        try:
            await serve(request, context)
        except grpc.aio.AbortError:
            raise CallFailedError(context.status()) from None

    async def both_ways(
        self, rpc: str, requests: AsyncIterator[Any], metadata: Metadata, sink: Sink
    ) -> None:
        """As `stream`, of a stream of requests."""
        context = LocalContext(metadata, sink)
        handler = self._wrapped.get(rpc) or await self._wrap(rpc, metadata)
        serve: Any = handler.stream_stream
        try:
            await serve(requests, context)
        except grpc.aio.AbortError:
            raise CallFailedError(context.status()) from None

    async def expected(self, rpc: str, principal: Principal) -> None:
        """Before the body of a request is read. Raises MeshError if its call would be refused by
        what limits calls."""
        await self._interceptor.expected(rpc, principal)

    def refused(
        self, rpc: str, metadata: Metadata, caller: Principal | None, failure: MeshError
    ) -> None:
        """Says that an edge refused a request before it became a call."""
        self._interceptor.refused(rpc, LocalContext(metadata, None), caller, failure)

    async def _wrap(self, rpc: str, metadata: Metadata) -> grpc.RpcMethodHandler[Any, Any]:
        async def look_up(_: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
            return self._handlers.get(rpc)

        handler = await self._interceptor.intercept_service(look_up, _CallDetails(rpc, metadata))
        if rpc in self._handlers:
            self._wrapped[rpc] = handler
        return handler


class _CallDetails(grpc.HandlerCallDetails):
    def __init__(self, method: str, metadata: Metadata) -> None:
        self.method = method
        self.invocation_metadata = metadata


class LocalContext(grpc.aio.ServicerContext[Any, Any]):
    """The context of one local call. It has no deadline; leaving it is cancelling its task."""

    def __init__(
        self,
        metadata: Metadata,
        sink: Sink | None,
        within: ServicerContext | None = None,
        caller: Principal | None = None,
    ) -> None:
        self.caller = caller
        self._metadata = metadata
        self._sink = sink
        self._within = within
        self.trailing: Metadata = ()
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._rich: bytes = b""

    def status(self) -> Status:
        """What the call was aborted with."""
        if self._rich:
            return Status.FromString(self._rich)
        code = self._code or grpc.StatusCode.UNKNOWN
        return Status(code=code.value[0], message=self._details)

    async def read(self) -> Any:
        """Local calls have one request, and it was passed already."""
        return grpc.aio.EOF

    async def write(self, message: Any) -> None:
        """Feeds one response to the caller."""
        if self._sink is not None:
            await self._sink(message)

    @property
    def is_part(self) -> bool:
        """Whether another call makes this one for its own caller."""
        return self._within is not None

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Becomes headers of the response, where somebody expects them."""
        if self._within is None:
            announce(initial_metadata)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        """Ends the call."""
        self._code, self._details = code, details
        for key, value in trailing_metadata or ():
            if key == STATUS_DETAILS_KEY:
                self._rich = value
        raise grpc.aio.AbortError(details)

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Kept for the caller."""
        self.trailing = tuple(trailing_metadata)

    def invocation_metadata(self) -> Any:
        """What the caller sent."""
        return self._metadata

    def set_code(self, code: Any) -> None:
        """Kept for `status`."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Kept for `status`."""
        self._details = details

    def set_compression(self, compression: grpc.Compression) -> None:
        """There is nothing to compress."""

    def disable_next_message_compression(self) -> None:
        """There is nothing to compress."""

    def peer(self) -> str:
        """Who calls, as gRPC writes it."""
        return self._within.peer() if self._within else current_peer()

    def peer_identities(self) -> Any:
        """Those of the call around this one; others show no certificate."""
        return self._within.peer_identities() if self._within else None

    def peer_identity_key(self) -> Any:
        """That of the call around this one; others show no certificate."""
        return self._within.peer_identity_key() if self._within else None

    def auth_context(self) -> Mapping[str, Any]:
        """That of the call around this one; others show no certificate."""
        return self._within.auth_context() if self._within else {}

    def time_remaining(self) -> Any:
        """No deadline."""
        return None

    def trailing_metadata(self) -> Any:
        """What the servicer set."""
        return self.trailing

    def code(self) -> Any:
        """What the call was aborted with, if it was."""
        return self._code

    def details(self) -> str:
        """What the call was aborted with, if it was."""
        return self._details

    def add_done_callback(self, callback: Any) -> None:
        """Called when the task that serves the call ends."""
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(lambda _: callback(self))

    def cancelled(self) -> bool:
        """Whether the caller left."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    def done(self) -> bool:
        """Whether the call was aborted."""
        return self._code is not None
