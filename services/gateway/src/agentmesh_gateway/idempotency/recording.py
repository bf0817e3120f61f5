"""Streams of responses, kept to be told again."""

from __future__ import annotations

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError


class Recording:
    """The messages of a stream, as they came, if they are not too many."""

    MOST_BYTES = 256 * 1024
    _TOO_LONG = b"\xff"

    def __init__(self) -> None:
        self._parts = bytearray()
        self._too_long = False
        self.begun = False

    def add(self, message: bytes) -> None:
        """Takes one more."""
        self.begun = True
        self._too_long = self._too_long or len(self._parts) + len(message) > self.MOST_BYTES
        if not self._too_long:
            self._parts += len(message).to_bytes(4, "big") + message

    def kept(self) -> bytes:
        """All of it as one value, or that it is too long."""
        return self._TOO_LONG if self._too_long else bytes(self._parts)

    @classmethod
    def replay(cls, kept: bytes) -> list[bytes]:
        """The messages. Raises MeshError OUT_OF_RANGE if they were too many to be kept."""
        if kept == cls._TOO_LONG:
            raise MeshError(
                grpc.StatusCode.OUT_OF_RANGE,
                errors_pb2.ERROR_REASON_OUTPUT_REMOVED,
                "this request was carried out before; its output is too long to be kept",
            )
        messages, position = [], 0
        while position < len(kept):
            size = int.from_bytes(kept[position : position + 4], "big")
            messages.append(kept[position + 4 : position + 4 + size])
            position += 4 + size
        return messages
