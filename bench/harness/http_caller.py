"""One HTTP connection that stays open, as light as it can be: a request is bytes that are written
again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class HttpCaller:
    """Sends one request at a time. Raises AssertionError for an answer that is not 200."""

    def __init__(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._request = request
        self._reader = reader
        self._writer = writer

    async def __call__(self) -> bytes:
        """The body of the answer."""
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        _, _, rest = head.partition(b"content-length:")
        return await self._reader.readexactly(int(rest[: rest.index(b"\r")]))


@asynccontextmanager
async def http_callers(
    url: str, path: str, headers: dict[str, str], count: int
) -> AsyncIterator[list[HttpCaller]]:
    """So many connections for GET requests."""
    address = urlsplit(url)
    lines = [f"GET {path} HTTP/1.1", f"host: {address.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    streams = [await asyncio.open_connection(address.hostname, address.port) for _ in range(count)]
    try:
        yield [HttpCaller(request, reader, writer) for reader, writer in streams]
    finally:
        for _, writer in streams:
            writer.close()
