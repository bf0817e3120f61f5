"""Streams of other services, forwarded as the bytes that came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeAlias

import grpc
from meshkit.errors import MeshError

ByteCall: TypeAlias = "grpc.aio.UnaryStreamCall[Any, bytes]"


async def forward(call: ByteCall) -> AsyncGenerator[bytes, None]:
    """What `call` yields. Leaving the iterator cancels the call."""
    try:
        async for response in call:
            yield response
    finally:
        call.cancel()


class Subscriptions:
    """Forwards streams that have no end of their own, and ends them when the service drains."""

    def __init__(self) -> None:
        self._open: set[ByteCall] = set()
        self._draining = False

    async def forward(self, call: ByteCall) -> AsyncGenerator[bytes, None]:
        """What `call` yields until it ends, its reader leaves, or the service drains."""
        if self._draining:
            call.cancel()
            raise MeshError.draining()
        self._open.add(call)
        try:
            async for response in call:
                yield response
        except asyncio.CancelledError:
            # A cancelled call and a cancelled task look alike; only the task's is passed on.
            task = asyncio.current_task()
            if self._draining and (task is None or not task.cancelling()):
                raise MeshError.draining() from None
            raise
        finally:
            self._open.discard(call)
            call.cancel()

    async def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, so that its reader goes elsewhere."""
        self._draining = True
        for call in list(self._open):
            call.cancel()
