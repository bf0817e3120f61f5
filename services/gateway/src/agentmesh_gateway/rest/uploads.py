"""Files as bodies of requests: each piece that arrives becomes one request of a stream.

Where the contract wants the size in the first request, it is the Content-Length, and such files may
be of any type but those that a page of somebody else's can send without being asked first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError

from agentmesh_gateway.local_calls import LocalCalls, Metadata
from agentmesh_gateway.rest.asgi import ClientLeftError, Receive
from agentmesh_gateway.rest.routes import SIZE_FIELD, Route

_PIECE = 512 * 1024
_MEDIA_TYPES = {"application/jsonl", "application/x-ndjson", "application/octet-stream"}
_FORM_TYPES = {"", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"}
_LARGEST_SIZE = 2**63 - 1


class UnsupportedFileError(MeshError):
    """A body that does not say that it is a file."""


async def serve_upload(
    route: Route,
    first: Any,
    calls: LocalCalls,
    headers: dict[bytes, bytes],
    receive: Receive,
    metadata: Metadata,
) -> tuple[Any, Metadata]:
    """The response and the trailing metadata. Holds no more than a piece of the file.

    `first` is the first request of the stream, as far as query and headers say it.
    """
    _require_file(route, headers.get(b"content-type", b""))
    if route.announces_size:
        setattr(first, SIZE_FIELD, _announced(headers))
    body = _Body(route, receive, first)
    try:
        return await calls.upload(route.rpc, body.requests(), metadata)
    except asyncio.CancelledError:
        if body.abandoned:
            raise ClientLeftError from None
        raise


def _require_file(route: Route, content_type: bytes) -> None:
    media_type = content_type.decode("latin-1").lower().partition(";")[0].strip()
    if route.announces_size:
        refusal = "the content type must be that of a file, such as application/octet-stream"
        fits = media_type not in _FORM_TYPES
    else:
        refusal = f"the content type must be {' or '.join(sorted(_MEDIA_TYPES))}"
        fits = media_type in _MEDIA_TYPES
    if not fits:
        raise UnsupportedFileError(
            grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_REASON_MALFORMED_BODY, refusal
        )


def _announced(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or len(length) > len(str(_LARGEST_SIZE)):
        raise MeshError.malformed("the request must have a Content-Length")
    return min(int(length), _LARGEST_SIZE)


class _Body:
    def __init__(self, route: Route, receive: Receive, first: Any) -> None:
        self._route = route
        self._receive = receive
        self._first = first
        self.abandoned = False

    async def requests(self) -> AsyncIterator[Any]:
        """One for each piece, after one with what the first alone says."""
        if self._route.announces_size or self._first.ByteSize():
            yield self._first
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.abandoned = True
                raise ClientLeftError
            data = message.get("body", b"")
            for at in range(0, len(data), _PIECE):
                piece = {self._route.body: data[at : at + _PIECE]}
                yield self._route.request_type(**piece)
            more = message.get("more_body", False)
