"""The ASGI messages that the edge reads and writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from agentmesh_gateway.limits.bodies import Body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def by_scope(requests: App, websockets: App) -> App:
    """One application of two: for HTTP requests, and for WebSockets."""

    def serve(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (websockets if scope["type"] == "websocket" else requests)(scope, receive, send)

    return serve


class BodyTooLargeError(Exception):
    """The request's body exceeds the limit."""


class ClientLeftError(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(headers: dict[bytes, bytes], receive: Receive, held: Body) -> bytes:
    """The whole body, of which `held` keeps account. Raises BodyTooLargeError before reading more
    than it may have, and MeshError before holding more than can be held."""
    if not held.announced:
        return b""
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > held.largest:
        raise BodyTooLargeError
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        if piece := message.get("body", b""):
            if len(body) + len(piece) > held.largest:
                raise BodyTooLargeError
            held.grow(len(piece))
            body += piece
        if not message.get("more_body", False):
            held.complete()
            return bytes(body)


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
