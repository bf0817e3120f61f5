"""What the service and a worker say to each other: JSON objects, each after its length."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
MAX_FILE_BYTES: Final = 8 * 1024 * 1024
"""Of a file that is read or written in one frame."""
MAX_RESULT_CHARACTERS: Final = 1024 * 1024
_LENGTH: Final = struct.Struct(">I")


class ProtocolError(Exception):
    """The other side says what no side would say."""


def packed(frame: Mapping[str, Any]) -> bytes:
    """The bytes of a frame. Raises ValueError for what is no JSON, ProtocolError if too large."""
    data = json.dumps(frame, allow_nan=False).encode()
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(data)} bytes")
    return _LENGTH.pack(len(data)) + data


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        frame = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame that is no JSON: {error}") from None
    if not isinstance(frame, dict):
        raise ProtocolError("a frame that is no object")
    return frame


def _length(header: bytes) -> int:
    length: int = _LENGTH.unpack(header)[0]
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {length} bytes")
    return length


async def read_frame(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next frame; None if there will be none. Raises ProtocolError."""
    try:
        length = _length(await reader.readexactly(_LENGTH.size))
        return _parsed(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def receive_frame(connection: socket.socket) -> dict[str, Any] | None:
    """As `read_frame`, blocking."""
    header = _receive(connection, _LENGTH.size)
    data = _receive(connection, _length(header)) if header else None
    return None if data is None else _parsed(data)


def _receive(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 256 * 1024))
        if not piece:
            return None
        data += piece
    return bytes(data)
