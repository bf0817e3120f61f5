"""Converse as a WebSocket: text frames of JSON, one request up and one response down each.

A page of a browser cannot send headers with it, so that it may send its credentials as a
subprotocol (never in the address, which ends up in logs); and browsers ask nobody before they
connect from a page of somebody else's, so that the Origin header is judged here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any
from urllib.parse import unquote

import grpc
import orjson
from agentmesh.common.v1 import errors_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from google.rpc.status_pb2 import Status
from meshkit.errors import FieldViolation, MeshError, from_rich_status, to_rich_status
from meshkit.ids import new_id
from meshkit.tasks import stop

from agentmesh_gateway.http.websockets import INCOMING, REFUSED
from agentmesh_gateway.identity.authenticator import Authenticator
from agentmesh_gateway.limits.bodies import Bodies, holders_of
from agentmesh_gateway.limits.held_frames import HeldFrames
from agentmesh_gateway.limits.toll import Toll, hold_back
from agentmesh_gateway.local_calls import CallFailedError, LocalCalls, Metadata
from agentmesh_gateway.rest.asgi import Message, Receive, Scope, Send
from agentmesh_gateway.rest.codec import (
    JsonObject,
    MalformedJsonError,
    encode_message,
    message_codec,
    parse_json,
)
from agentmesh_gateway.rest.errors import error_body, http_code_of, status_of
from agentmesh_gateway.rest.frames_ahead import FramesAhead
from agentmesh_gateway.rest.origins import require_known_origin
from agentmesh_gateway.rest.problems import Path, Problems
from agentmesh_gateway.rest.request_headers import (
    REQUEST_ID,
    call_metadata,
    request_id_of,
    require_single,
)
from agentmesh_gateway.rest.responder import Responder
from agentmesh_gateway.rest.same_machine import require_this_machine

logger = logging.getLogger(__name__)

SUBPROTOCOL = "agentmesh.v1"
BEARER_PREFIX = "agentmesh.bearer."
"""Before the secret, in an offered subprotocol; the answer names SUBPROTOCOL alone."""

_RPC = "/agentmesh.gateway.v1.ConversationService/Converse"
_PATH = re.compile(r"/conversations/(?:(?P<conversation_id>[^/]+)/)?converse")
_UNREADABLE_IN_A_ROW = 16
_FINISHED, _UNREADABLE_TYPE, _REFUSED, _DEFECT, _RESTARTING, _LATER = (
    1000,
    1003,
    1008,
    1011,
    1012,
    1013,
)
_DEFECTS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
_COME_BACK = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


class ConverseEdge:
    """Serves WebSockets by calling Converse."""

    def __init__(
        self,
        calls: LocalCalls,
        authenticator: Authenticator,
        allowed_origins: Collection[str],
        toll: Toll,
        bodies: Bodies,
    ) -> None:
        self._calls = calls
        self._toll = toll
        self._bodies = bodies
        self._authenticator = authenticator
        self._allowed_origins = {origin.lower() for origin in allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from its handshake to its end."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = request_id_of(headers) or new_id("req")
        try:
            require_single(scope["headers"])
            conversation_id = _conversation_of(scope)
            subprotocol, metadata = _agreed(scope["subprotocols"], headers)
            require_known_origin(headers, self._allowed_origins)
            principal = await self._authenticator.authenticate(metadata)
            if self._authenticator.trusts_this_machine(principal):
                require_this_machine(headers, self._allowed_origins)
        except MeshError as error:
            await _refuse(receive, send, request_id, error)
            return
        held = HeldFrames(self._bodies, holders_of(principal))
        scope["state"][INCOMING].count_with(held)
        await receive()  # that the client wants to connect
        await send(
            {
                "type": "websocket.accept",
                "subprotocol": subprotocol or None,
                "headers": [(REQUEST_ID, request_id.encode())],
            }
        )

        async def pay() -> None:
            await self._toll(principal)

        frames = FramesAhead(held)
        await _Socket(self._calls, metadata, conversation_id, receive, send, pay, frames).serve()


class _Socket:
    """One accepted connection."""

    def __init__(
        self,
        calls: LocalCalls,
        metadata: Metadata,
        conversation_id: str,
        receive: Receive,
        send: Send,
        pay: Callable[[], Awaitable[None]],
        frames: FramesAhead,
    ) -> None:
        self._calls = calls
        self._pay = pay
        self._metadata = metadata
        self._conversation_id = conversation_id
        self._receive = receive
        self._send = send
        self._frames = frames
        self._unreadable = 0
        self._left = False
        self._wrong_type = False
        self._refusal: MeshError | None = None

    async def serve(self) -> None:
        """Runs the call until it ends or the client leaves; then the call is cancelled."""
        call = asyncio.create_task(
            self._calls.both_ways(_RPC, self._requests(), self._metadata, self._write)
        )
        reading = asyncio.create_task(self._read(call))
        try:
            # Not `await call`: its cancellation would look like one of this connection.
            await asyncio.wait({call})
            await self._end(call)
        except OSError:
            pass  # the client left meanwhile
        finally:
            await stop(call, reading, expected=(CallFailedError, OSError))
            self._frames.drop()

    async def _read(self, call: asyncio.Task[None]) -> None:
        """Reads ahead: pongs and the client's leaving are seen while a request is served."""
        while True:
            await self._frames.room()
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._left = True
            elif message["type"] == REFUSED:
                self._refusal = message["error"]
            elif message.get("utf8") is None:
                self._wrong_type = True
            else:
                try:
                    self._frames.put(message["utf8"])
                    continue
                except MeshError as error:
                    self._refusal = error
            call.cancel()
            return

    async def _requests(self) -> AsyncIterator[pb2.ConverseRequest]:
        """What the frames ask. One that cannot be read is answered here, in its turn."""
        while True:
            text = await self._frames.take()
            try:
                request = self._request(text)
            except _UnreadableFrameError as error:
                await self._complain(error)
            else:
                self._unreadable = 0
                yield request

    async def _complain(self, error: _UnreadableFrameError) -> None:
        """Answers a frame that becomes no request; it costs as much as one."""
        self._unreadable += 1
        if self._unreadable > _UNREADABLE_IN_A_ROW:
            raise MeshError.malformed(f"{self._unreadable} frames in a row cannot be read")
        failure = error.failure
        try:
            await self._pay()
        except MeshError as refusal:
            failure = refusal
        ack = pb2.ConverseAck(request_id=error.request_id, error=status_of(failure))
        await self._write(pb2.ConverseResponse(ack=ack))
        await hold_back(failure)

    def _request(self, text: bytes) -> pb2.ConverseRequest:
        try:
            document = parse_json(text)
        except MalformedJsonError as error:
            raise _UnreadableFrameError("", MeshError.malformed(f"the frame {error}")) from None
        request, problems = pb2.ConverseRequest(), Problems()
        message_codec(pb2.ConverseRequest.DESCRIPTOR).decode(document, request, Path(), problems)
        if problems:
            violations = [
                FieldViolation(found.field, found.description) for found in problems.found
            ]
            raise _UnreadableFrameError(request.request_id, MeshError.invalid_fields(violations))
        opening = request.open
        # The address names the conversation; another one in the request is the request's mistake.
        if request.HasField("open") and self._conversation_id and not opening.HasField("start"):
            if opening.conversation_id not in ("", self._conversation_id):
                failure = MeshError.invalid("open.conversation_id", "is not that of the address")
                raise _UnreadableFrameError(request.request_id, failure)
            opening.conversation_id = self._conversation_id
        return request

    async def _write(self, response: Any) -> None:
        if isinstance(response, bytes):
            response = pb2.ConverseResponse.FromString(response)
        try:
            await self._send_json(encode_message(response))
        except OSError as error:
            # As grpc says it when its caller has left.
            raise grpc.aio.InternalError("the client has left") from error

    async def _send_json(self, content: JsonObject) -> None:
        await self._send({"type": "websocket.send", "text": orjson.dumps(content).decode()})

    async def _end(self, call: asyncio.Task[None]) -> None:
        if self._left:
            return
        if self._refusal is not None:
            await self._fail(to_rich_status(self._refusal))
            return
        if self._wrong_type:
            await self._close(_UNREADABLE_TYPE, "text frames only")
            return
        failure = None if call.cancelled() else call.exception()
        if isinstance(failure, CallFailedError):
            await self._fail(failure.status)
        elif failure is not None:
            reference = new_id("err")
            logger.error("a WebSocket failed: %s", reference, exc_info=failure)
            await self._fail(to_rich_status(MeshError.internal(reference)))
        elif not call.cancelled():
            await self._close(_FINISHED, "")

    async def _fail(self, status: Status) -> None:
        error = from_rich_status(status)
        await self._send_json(error_body(status, http_code_of(status)))
        await self._close(_close_code(error), error.reason_name)

    async def _close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


class _UnreadableFrameError(Exception):
    def __init__(self, request_id: str, failure: MeshError) -> None:
        super().__init__(str(failure))
        self.request_id = request_id
        self.failure = failure


def _close_code(error: MeshError) -> int:
    if error.reason == errors_pb2.ERROR_REASON_DRAINING:
        return _RESTARTING
    if error.code in _COME_BACK:
        return _LATER
    return _DEFECT if error.code in _DEFECTS else _REFUSED


def _conversation_of(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.partition(b"?")[0].decode("latin-1")
    match = _PATH.fullmatch(path)
    if match is None:
        raise MeshError.not_found("path", path)
    return unquote(match["conversation_id"] or "")


def _agreed(offered: Collection[str], headers: dict[bytes, bytes]) -> tuple[str, Metadata]:
    """The subprotocol to answer with, and the metadata of the call. Raises MeshError."""
    metadata = call_metadata(headers)
    secrets = [name.removeprefix(BEARER_PREFIX) for name in offered if _is_bearer(name)]
    if offered and SUBPROTOCOL not in offered:
        raise MeshError.malformed(f"the subprotocol must be {SUBPROTOCOL}")
    if len(secrets) > 1:
        raise MeshError.malformed(f"more than one subprotocol begins with {BEARER_PREFIX}")
    if secrets and not any(name in ("authorization", "x-api-key") for name, _ in metadata):
        metadata = (*metadata, ("authorization", f"Bearer {secrets[0]}"))
    return (SUBPROTOCOL if offered else ""), metadata


def _is_bearer(subprotocol: str) -> bool:
    return subprotocol.startswith(BEARER_PREFIX)


async def _refuse(receive: Receive, send: Send, request_id: str, error: MeshError) -> None:
    """Answers the handshake with an HTTP error, as any other request would be."""
    await receive()

    async def denial(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    answer = Responder(denial, [(REQUEST_ID, request_id.encode())])
    await answer.error(status_of(error))
