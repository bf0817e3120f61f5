"""How slowly an upload may come.

An upload holds a place of its tenant's. So each has a stock of seconds for which the gateway waits
in vain: waiting uses it up, what comes refills it, and when it is empty the call ends. Neither
silence nor drops prolong a call; whoever sends enough has as long as it takes. While the gateway
itself wants nothing, because what is behind it is slow, nothing is used up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

import grpc
from agentmesh.common.v1 import errors_pb2
from google.protobuf.message import Message
from meshkit.errors import MeshError

Request = TypeVar("Request", bound=Message)


@dataclass(frozen=True, slots=True)
class UploadPace:
    """Of every upload; `seconds` of 0 is no limit, `bytes_per_second` of 0 refills by any piece."""

    seconds: float
    bytes_per_second: int

    async def of(self, requests: AsyncIterator[Request]) -> AsyncIterator[Request]:
        """The requests as they come. Raises MeshError DEADLINE_EXCEEDED if they come too slowly."""
        source = aiter(requests)
        left = self.seconds
        now = asyncio.get_running_loop().time
        while True:
            begun = now()
            request = await self._next(source, left)
            if request is None:
                return
            left = min(self.seconds, left - (now() - begun) + self._worth(request))
            yield request

    async def _next(self, source: AsyncIterator[Request], left: float) -> Request | None:
        if not self.seconds:
            return await anext(source, None)
        try:
            async with asyncio.timeout(left) as waiting:
                return await anext(source, None)
        except TimeoutError:
            if waiting.expired():
                raise self._too_slow() from None
            raise

    def _worth(self, request: Message) -> float:
        """Seconds that a request refills."""
        if not self.bytes_per_second:
            return self.seconds
        return request.ByteSize() / self.bytes_per_second

    def _too_slow(self) -> MeshError:
        wanted = f"{self.bytes_per_second} bytes a second" if self.bytes_per_second else "something"
        return MeshError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
            f"the upload came too slowly: {wanted} must come within {self.seconds:g} seconds",
        )
