"""The REST edge: one ASGI application for every method of the public contract."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from agentmesh.common.v1 import options_pb2
from google.protobuf.message import Message as ProtobufMessage
from meshkit.context import Principal
from meshkit.errors import FieldViolation, MeshError
from meshkit.ids import new_id

from agentmesh_gateway.identity.authenticator import Authenticator
from agentmesh_gateway.limits.bodies import Bodies, Body
from agentmesh_gateway.local_calls import CallFailedError, LocalCalls, Metadata
from agentmesh_gateway.rest.announcements import announce_in
from agentmesh_gateway.rest.asgi import (
    BodyTooLargeError,
    ClientLeftError,
    Headers,
    Receive,
    Scope,
    Send,
    read_body,
)
from agentmesh_gateway.rest.binding import bind
from agentmesh_gateway.rest.bodies import UnsupportedMediaTypeError, parse_body, require_plain
from agentmesh_gateway.rest.codec import encode_message
from agentmesh_gateway.rest.errors import method_not_allowed, status_of
from agentmesh_gateway.rest.etags import etag_headers, take_if_match
from agentmesh_gateway.rest.peer import enter_request
from agentmesh_gateway.rest.problems import Problems
from agentmesh_gateway.rest.request_headers import (
    REQUEST_ID,
    TRACEPARENT,
    call_metadata,
    request_id_of,
    require_single,
    take_idempotency_key,
    take_last_event_id,
)
from agentmesh_gateway.rest.responder import Responder
from agentmesh_gateway.rest.routes import Match, Route, RouteTable
from agentmesh_gateway.rest.same_machine import require_this_machine
from agentmesh_gateway.rest.streaming import StreamRoute, ask_for_single_events, serve_stream
from agentmesh_gateway.rest.uploads import UnsupportedFileError, serve_upload
from agentmesh_gateway.servicers.context import HTTP_STATUS_KEY

logger = logging.getLogger(__name__)


class RestEdge:
    """Serves HTTP requests by calling this service's own methods."""

    def __init__(
        self,
        table: RouteTable,
        calls: LocalCalls,
        authenticator: Authenticator,
        *,
        bodies: Bodies,
        keep_alive_seconds: float,
        allowed_origins: Collection[str] = (),
    ) -> None:
        self._table = table
        self._calls = calls
        self._authenticator = authenticator
        self._bodies = bodies
        self._keep_alive_seconds = keep_alive_seconds
        self._allowed_origins = {origin.lower() for origin in allowed_origins}
        self._streams = {
            route.rpc: StreamRoute(route) for route in table.routes if route.server_streaming
        }
        self._public = {route.rpc for route in table.routes if _needs_credentials(route)}
        self._vital = {route.rpc for route in table.routes if _is_vital(route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        enter_request(scope)
        request_id = request_id_of(headers) or new_id("req")
        about: Headers = [(REQUEST_ID, request_id.encode())]
        if TRACEPARENT in headers:
            announce_in(about)
        answer = Responder(send, about, without_body=scope["method"] == "HEAD")
        try:
            await self._serve(scope, headers, receive, answer)
        except ClientLeftError:
            return
        except CallFailedError as error:
            await answer.error(error.status)
        except BodyTooLargeError:
            await answer.error(status_of(MeshError.message_too_large(self._bodies.largest)))
        except (UnsupportedMediaTypeError, UnsupportedFileError) as error:
            await answer.error(status_of(error), 415, [(b"accept-encoding", b"identity")])
        except MeshError as error:
            await answer.error(status_of(error))
        except (ConnectionError, GeneratorExit):
            raise
        except Exception:
            reference = new_id("err")
            logger.exception("a request over HTTP failed: %s", reference)
            if answer.started:
                raise
            await answer.error(status_of(MeshError.internal(reference)))

    async def _serve(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, answer: Responder
    ) -> None:
        if len(headers) < len(scope["headers"]):
            require_single(scope["headers"])
        path = raw_path(scope)
        match = self._table.match(scope["method"], path)
        if match is None:
            await self._refuse_path(scope["method"], path, answer)
            return
        metadata = call_metadata(headers)
        principal: Principal | None = None
        try:
            if match.route.rpc in self._public:
                # Before the body is read: strangers do not get to send megabytes.
                principal = await self._authenticator.authenticate(metadata)
                if self._authenticator.trusts_this_machine(principal):
                    require_this_machine(headers, self._allowed_origins)
                await self._calls.expected(match.route.rpc, principal)
            vital = match.route.rpc in self._vital
            with self._bodies.of(headers, principal, vital=vital) as held:
                await self._call(match, scope, headers, receive, held, metadata, answer, principal)
        except MeshError as error:
            self._calls.refused(match.route.rpc, metadata, principal, error)
            raise

    async def _call(
        self,
        match: Match,
        scope: Scope,
        headers: dict[bytes, bytes],
        receive: Receive,
        held: Body,
        metadata: Metadata,
        answer: Responder,
        caller: Principal | None,
    ) -> None:
        require_plain(headers)
        if match.route.is_upload:
            held.release()  # it passes through, as a call
            first = self._bound(match, scope, headers, None)
            response, _ = await serve_upload(
                match.route, first, self._calls, headers, receive, metadata
            )
            await answer.json(200, encode_message(response), etag_headers(response))
            return
        request = await self._request(match, scope, headers, receive, held)
        stream = self._streams.get(match.route.rpc)
        if stream is not None:
            held.release()  # it may last for days
            await serve_stream(
                stream,
                self._calls,
                request,
                metadata,
                answer,
                receive,
                self._keep_alive_seconds,
            )
            return
        if match.route.body:
            caller = None  # a body may take its time, and a key may be revoked meanwhile
        response, trailing = await self._calls.unary(
            match.route.rpc, request, metadata, caller=caller
        )
        http_code = int(dict(trailing).get(HTTP_STATUS_KEY, 200))
        await answer.json(http_code, encode_message(response), etag_headers(response))

    async def _request(
        self,
        match: Match,
        scope: Scope,
        headers: dict[bytes, bytes],
        receive: Receive,
        held: Body,
    ) -> ProtobufMessage:
        body = await read_body(headers, receive, held)
        document = parse_body(headers.get(b"content-type", b""), body) if body else None
        return self._bound(match, scope, headers, document)

    def _bound(
        self, match: Match, scope: Scope, headers: dict[bytes, bytes], document: Any
    ) -> ProtobufMessage:
        query = scope["query_string"].decode("latin-1")
        request, problems = bind(match, query, document)
        take_last_event_id(headers, request, problems)
        take_idempotency_key(headers, request, problems)
        take_if_match(headers, request, problems)
        if match.route.server_streaming:
            ask_for_single_events(request)
        _refuse(problems)
        return request

    async def _refuse_path(self, method: str, path: str, answer: Responder) -> None:
        allowed = list(self._table.allowed(path))
        if not allowed:
            await answer.error(status_of(MeshError.not_found("path", path)))
            return
        allow: Headers = [(b"allow", ", ".join([*allowed, "OPTIONS"]).encode())]
        if method == "OPTIONS":
            await answer.empty(204, allow)
            return
        await answer.error(status_of(method_not_allowed(path, method, allowed)), 405, allow)


def raw_path(scope: Scope) -> str:
    """The path as it was sent, still percent-encoded."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("latin-1")


def _needs_credentials(route: Route) -> bool:
    policy = route.method.GetOptions().Extensions[options_pb2.policy]
    return bool(policy.audience == options_pb2.AUDIENCE_PUBLIC)


def _is_vital(route: Route) -> bool:
    policy = route.method.GetOptions().Extensions[options_pb2.policy]
    return bool(policy.importance == options_pb2.IMPORTANCE_VITAL)


def _refuse(problems: Problems) -> None:
    if problems:
        raise MeshError.invalid_fields(
            [FieldViolation(problem.field, problem.description) for problem in problems.found]
        )
