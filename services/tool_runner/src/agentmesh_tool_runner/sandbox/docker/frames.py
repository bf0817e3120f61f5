"""What service and agent say to each other: frames on the container's standard streams.

A frame is two big-endian lengths, then a header in JSON and a payload of bytes. Standard library
only, for the agent has nothing else.
"""

from __future__ import annotations

import json
import struct
from typing import Any

PREFIX = struct.Struct(">II")
HEADER_BYTES = 64 * 1024 * 1024
PAYLOAD_BYTES = 1024 * 1024 * 1024


def frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    text = json.dumps(header).encode()
    return PREFIX.pack(len(text), len(payload)) + text + payload


class Frames:
    """Cuts a stream of bytes into frames. Raises ValueError for what can be none."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """The frames that are complete with this data."""
        self._held += data
        found = []
        while len(self._held) >= PREFIX.size:
            header, payload = PREFIX.unpack_from(self._held)
            if header > HEADER_BYTES or payload > PAYLOAD_BYTES:
                raise ValueError("a frame is too long")
            begin, end = PREFIX.size + header, PREFIX.size + header + payload
            if len(self._held) < end:
                break
            told = json.loads(self._held[PREFIX.size : begin])
            if not isinstance(told, dict):
                raise ValueError("a header is no object")
            found.append((told, bytes(self._held[begin:end])))
            del self._held[:end]
        return found
