"""An HTTP/2 server that resets every stream: what a proxy does when it loses the server behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshkit.tasks import ended

_PREFACE_BYTES = 24
_HEAD_BYTES = 9
_HEADERS, _RST_STREAM, _SETTINGS, _PING = 1, 3, 4, 6
_ACK = 1


@asynccontextmanager
async def resetting_server(*codes: int) -> AsyncIterator[str]:
    """Its address. Stream after stream is reset with the next of the HTTP/2 error codes, those
    after them with the last."""
    left = list(codes)
    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def answer(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK, 0)
        if kind == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, 0, payload)
        if kind == _HEADERS:
            code = left.pop(0) if len(left) > 1 else left[0]
            return _frame(_RST_STREAM, 0, stream, code.to_bytes(4, "big"))
        return b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            serving[task] = writer
        try:
            await reader.readexactly(_PREFACE_BYTES)
            writer.write(_frame(_SETTINGS, 0, 0))
            while True:
                head = await reader.readexactly(_HEAD_BYTES)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                stream = int.from_bytes(head[5:], "big")
                writer.write(answer(head[3], head[4], stream, payload))
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in serving.values():
            writer.close()
        await ended(*serving)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload
