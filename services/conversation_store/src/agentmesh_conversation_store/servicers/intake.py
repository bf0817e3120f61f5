"""What bounds the streams that callers send, whose bytes are held while they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError

R = TypeVar("R")

RETRY_SECONDS = 5.0
IMPORTS_AT_ONCE = 4
UPLOADS_AT_ONCE = 32
MOST_CHECKPOINT_BYTES = 64 * 1024 * 1024
_LEAST_LINE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """In bytes, for one line, one event and one blob of an export."""

    line: int
    event: int
    blob: int

    @classmethod
    def of(cls, *, message_bytes: int, blob_bytes: int) -> TransferLimits:
        """An event must fit into a message, or nobody could read it; its bytes in base 64 take
        four thirds of that, and then it is written without its JSON if that is too long."""
        return cls(max(_LEAST_LINE_BYTES, 2 * message_bytes), message_bytes, blob_bytes)


class Slots:
    """So many streams at once in this process."""

    def __init__(self, most: int, what: str) -> None:
        self._free = most
        self._refusal = f"{most} {what} are under way here"

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Holds one. OVERLOADED if none is free: nobody waits with a stream half sent."""
        if not self._free:
            raise MeshError.overloaded(self._refusal, RETRY_SECONDS)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def next_of(requests: AsyncIterator[R], patience: float) -> R | None:
    """The next request, None at the end; DEADLINE_EXCEEDED if none comes for `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            return await anext(requests, None)
    except TimeoutError:
        raise MeshError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
            f"no chunk came for {patience:g} seconds",
        ) from None
