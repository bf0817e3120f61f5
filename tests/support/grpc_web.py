"""A client of gRPC-Web: frames over HTTP/1.1, of which the last has the trailers."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

BINARY = "application/grpc-web+proto"
TEXT = "application/grpc-web-text"
_TRAILERS = 0x80


@dataclass
class Call:
    """One call under way."""

    response: httpx.Response
    response_type: type[Message]
    trailers: dict[str, str] = field(default_factory=dict)

    async def messages(self) -> AsyncIterator[Any]:
        """The responses; then `trailers` is there."""
        buffer = b""
        async for chunk in self._chunks():
            buffer += chunk
            while len(buffer) >= 5 and len(buffer) >= 5 + int.from_bytes(buffer[1:5], "big"):
                kind, length = buffer[0], int.from_bytes(buffer[1:5], "big")
                body, buffer = buffer[5 : 5 + length], buffer[5 + length :]
                if kind & _TRAILERS:
                    self._take(body)
                else:
                    yield self.response_type.FromString(body)
        assert not buffer, "the stream ends within a frame"
        if not self.trailers:  # an error without any response is in the headers
            self.trailers = dict(self.response.headers)

    async def _chunks(self) -> AsyncIterator[bytes]:
        if not self.response.headers["content-type"].startswith(TEXT):
            async for chunk in self.response.aiter_raw():
                yield chunk
            return
        text = b""
        async for chunk in self.response.aiter_raw():
            text += chunk
            whole = len(text) - len(text) % 4
            # Each piece may be padded by itself.
            for start in range(0, whole, 4):
                yield base64.b64decode(text[start : start + 4])
            text = text[whole:]

    def _take(self, body: bytes) -> None:
        for line in body.decode().split("\r\n"):
            name, _, value = line.partition(":")
            if name:
                self.trailers[name.lower().strip()] = value.strip()

    @property
    def code(self) -> int:
        """The gRPC status code."""
        return int(self.trailers["grpc-status"])

    @property
    def status(self) -> Status:
        """The rich status of a call that failed."""
        text = self.trailers["grpc-status-details-bin"]
        return Status.FromString(base64.b64decode(text + "=" * (-len(text) % 4)))


@asynccontextmanager
async def called(
    http: httpx.AsyncClient,
    method: str,
    request: Message,
    response_type: type[Message],
    headers: Mapping[str, str] | None = None,
    *,
    content_type: str = BINARY,
) -> AsyncIterator[Call]:
    """Calls a method such as "ConversationService/GetConversation"."""
    message = request.SerializeToString()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    if content_type == TEXT:
        body = base64.b64encode(body)
    sent = {"content-type": content_type, "accept": content_type, "x-grpc-web": "1"}
    path = f"/agentmesh.gateway.v1.{method}"
    async with http.stream("POST", path, content=body, headers={**sent, **(headers or {})}) as got:
        assert got.status_code == 200, await got.aread()
        yield Call(got, response_type)
