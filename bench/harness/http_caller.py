"""One HTTP connection that stays open, as light as it can be: a request is bytes that are written
again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class HttpCaller:
    """Sends one request at a time. Raises AssertionError for an answer that is not 200."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self._address = address
        self._request = request
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self) -> bytes:
        """The body of the answer."""
        reader, writer = self._streams or await self._connected()
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        _, _, rest = head.partition(b"content-length:")
        return await reader.readexactly(int(rest[: rest.index(b"\r")]))

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # At the first request: a server does not wait long for one.
        self._streams = await asyncio.open_connection(*self._address)
        return self._streams

    def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            self._streams[1].close()


@contextmanager
def http_callers(
    url: str, path: str, headers: dict[str, str], count: int
) -> Iterator[list[HttpCaller]]:
    """So many connections for GET requests."""
    address = urlsplit(url)
    lines = [f"GET {path} HTTP/1.1", f"host: {address.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    where = address.hostname or "", address.port or 0
    callers = [HttpCaller(where, request) for _ in range(count)]
    try:
        yield callers
    finally:
        for caller in callers:
            caller.close()
