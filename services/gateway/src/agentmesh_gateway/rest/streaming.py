"""Streams over HTTP: server-sent events, and files as plain bytes.

An error before the first item is an ordinary error response. The head of the response is sent with
the first item, or after half a second if there is none yet, so that clients of quiet streams know
that they are connected.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any, Self, cast

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtobufMessage
from meshkit.tasks import stop

from agentmesh_gateway.local_calls import CallFailedError, LocalCalls, Metadata
from agentmesh_gateway.rest import responder as media
from agentmesh_gateway.rest.asgi import Headers, Receive, wait_for_disconnect
from agentmesh_gateway.rest.responder import Responder
from agentmesh_gateway.rest.routes import Route
from agentmesh_gateway.rest.sse import KEEP_ALIVE, RETRY, frames_of

logger = logging.getLogger(__name__)

_FIRST_ITEM_SECONDS = 0.5
_FILE_HEADERS: Headers = [
    # Files are made by agents: a browser must not show them as pages of this origin, nor use them
    # in pages of others.
    (b"content-disposition", b"attachment"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def ask_for_single_events(request: Any) -> None:
    """Each event becomes a frame whose id says where to resume: so each must know it."""
    if "single_events" in request.DESCRIPTOR.fields_by_name:
        request.single_events = True


class StreamRoute:
    """How one streaming method answers over HTTP."""

    def __init__(self, route: Route) -> None:
        self.rpc = route.rpc
        self._response = message_factory.GetMessageClass(route.response)
        self._frames = frames_of(route.response)
        # A stream of nothing but chunks is a file, not a series of events.
        self._is_file = [field.type for field in route.response.fields] == [
            FieldDescriptor.TYPE_BYTES
        ]
        self._chunk = route.response.fields[0].name
        self._names_type = "media_type" in route.request.fields_by_name
        self._file_type = media.BYTES

    def answering(self, request: Any) -> Self:
        """For one request, which may say of what type its file is."""
        if not (self._is_file and self._names_type and request.media_type):
            return self
        mine = copy.copy(self)
        mine._file_type = request.media_type.encode()
        return mine

    def parse(self, item: Any) -> ProtobufMessage:
        """A response that its servicer may not have decoded."""
        return self._response.FromString(item) if isinstance(item, bytes) else item

    async def begin(self, answer: Responder) -> None:
        """Sends the head of the response, once."""
        if answer.started:
            return
        if self._is_file:
            await answer.begin(self._file_type, _FILE_HEADERS)
        else:
            await answer.begin(media.EVENT_STREAM)
            await answer.chunk(RETRY)

    async def show(self, answer: Responder) -> None:
        """Tells the client of a quiet stream that it is connected. A file waits for its first
        piece: that it cannot be had is not to be said by a connection that breaks."""
        if not self._is_file:
            await self.begin(answer)

    async def write(self, answer: Responder, item: Any) -> None:
        """Sends one response."""
        await self.begin(answer)
        message = self.parse(item)
        if self._is_file:
            await answer.chunk(cast("bytes", getattr(message, self._chunk)))
        else:
            for frame in self._frames(message):
                await answer.chunk(frame)

    async def fail(self, answer: Responder, error: CallFailedError) -> None:
        """Ends the response with an error, as far as that can still be said."""
        if not answer.started:
            await answer.error(error.status)
        elif self._is_file:
            # Returning without an end breaks the connection: nothing else tells a client that
            # its file is not complete.
            logger.info("a download broke off: %s", error.status.message)
        else:
            await answer.end_with_error(error.status)

    async def keep_alive(self, answer: Responder) -> None:
        """Sends a sign of life."""
        if not self._is_file:
            await answer.chunk(KEEP_ALIVE)


async def serve_stream(
    stream: StreamRoute,
    calls: LocalCalls,
    request: ProtobufMessage,
    metadata: Metadata,
    answer: Responder,
    receive: Receive,
    keep_alive_seconds: float,
) -> None:
    """Runs the call until it ends or the client leaves; then the call is cancelled."""
    stream = stream.answering(request)

    async def sink(item: Any) -> None:
        await stream.write(answer, item)

    call = asyncio.create_task(calls.stream(stream.rpc, request, metadata, sink))
    gone = asyncio.create_task(wait_for_disconnect(receive))
    try:
        await asyncio.wait({call, gone}, timeout=_FIRST_ITEM_SECONDS, return_when="FIRST_COMPLETED")
        while not call.done() and not gone.done():
            await stream.show(answer)
            sent = answer.frames_sent
            await asyncio.wait(
                {call, gone}, timeout=keep_alive_seconds, return_when="FIRST_COMPLETED"
            )
            if not call.done() and not gone.done() and sent == answer.frames_sent:
                await stream.keep_alive(answer)
        if call.done():
            await _finish(stream, call, answer)
    finally:
        await stop(call, gone, expected=(CallFailedError, OSError))


async def _finish(stream: StreamRoute, call: asyncio.Task[None], answer: Responder) -> None:
    try:
        await call
    except CallFailedError as error:
        await stream.fail(answer, error)
    else:
        await stream.begin(answer)
        await answer.end()
