"""Writes one HTTP response."""

from __future__ import annotations

from typing import Any

import orjson
from google.rpc.status_pb2 import Status

from agentmesh_gateway.rest.asgi import Headers, Send
from agentmesh_gateway.rest.errors import error_body, error_headers, http_code_of
from agentmesh_gateway.rest.sse import frame

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
BYTES = b"application/octet-stream"


class Responder:
    """The response of one request: whole, or as a stream."""

    def __init__(self, send: Send, headers: Headers, *, without_body: bool = False) -> None:
        self._send = send
        self._headers = headers
        self._without_body = without_body
        self.started = False
        self.frames_sent = 0

    async def json(self, http_code: int, content: Any, headers: Headers | None = None) -> None:
        """A whole response of JSON."""
        body = orjson.dumps(content)
        length = (b"content-length", str(len(body)).encode())
        await self._start(http_code, JSON, [length, *(headers or ())])
        await self._finish(body)

    async def error(
        self, status: Status, http_code: int = 0, headers: Headers | None = None
    ) -> None:
        """A whole response of an error."""
        code = http_code or http_code_of(status)
        extra = [*error_headers(status), *(headers or ())]
        await self.json(code, error_body(status, code), extra)

    async def empty(self, http_code: int, headers: Headers) -> None:
        """A response without content."""
        await self._start(http_code, JSON, headers)
        await self._finish(b"")

    async def begin(self, content_type: bytes, headers: Headers | None = None) -> None:
        """The head of a stream; the second call does nothing."""
        if not self.started:
            await self._start(200, content_type, [*(headers or ()), (b"x-accel-buffering", b"no")])

    async def chunk(self, body: bytes) -> None:
        """A piece of a stream."""
        self.frames_sent += 1
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """The end of a stream."""
        await self._finish(b"")

    async def end_with_error(self, status: Status) -> None:
        """The end of a stream of events that failed when it had begun."""
        await self._finish(frame("error", error_body(status, http_code_of(status))))

    async def _start(self, http_code: int, content_type: bytes, headers: Headers) -> None:
        self.started = True
        all_headers = [(b"content-type", content_type), *headers]
        all_headers += self._headers
        await self._send(
            {"type": "http.response.start", "status": http_code, "headers": all_headers}
        )

    async def _finish(self, body: bytes) -> None:
        body = b"" if self._without_body else body
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
