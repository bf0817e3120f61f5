"""Streams of other services, forwarded as the bytes that came."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from meshkit.errors import MeshError
from meshkit.ids import new_id

logger = logging.getLogger(__name__)

ByteCall: TypeAlias = "grpc.aio.UnaryStreamCall[Any, bytes]"
Recheck: TypeAlias = Callable[[], Awaitable[object]]
"""Authenticates a caller again; raises MeshError UNAUTHENTICATED if it may not go on."""


async def forward(call: ByteCall) -> AsyncGenerator[bytes, None]:
    """What `call` yields. Leaving the iterator cancels the call."""
    try:
        async for response in call:
            yield response
    finally:
        call.cancel()


class _Stream:
    """One forwarded call, and why this service ended it, if it did."""

    def __init__(self, call: ByteCall) -> None:
        self.call = call
        self.failure: MeshError | None = None

    def end(self, failure: MeshError) -> None:
        self.failure = self.failure or failure
        self.call.cancel()


class Subscriptions:
    """Forwards streams that have no end of their own.

    Ends them when the service drains, and when their caller is not accepted any more, which is
    found out every `recheck_seconds`.
    """

    def __init__(self, recheck_seconds: float) -> None:
        self._recheck_seconds = recheck_seconds
        self._open: set[_Stream] = set()
        self._draining = False

    async def forward(self, call: ByteCall, recheck: Recheck) -> AsyncGenerator[bytes, None]:
        """What `call` yields until it or its credentials end, its reader leaves, or a drain."""
        if self._draining:
            call.cancel()
            raise MeshError.draining()
        stream = _Stream(call)
        self._open.add(stream)
        # In a context of its own, so that checks are no part of the call's trace.
        guard = asyncio.create_task(self._guard(stream, recheck), context=contextvars.Context())
        try:
            async for response in call:
                yield response
        except asyncio.CancelledError:
            # A cancelled call and a cancelled task look alike; only the task's is passed on.
            task = asyncio.current_task()
            if stream.failure is not None and (task is None or not task.cancelling()):
                raise stream.failure from None
            raise
        finally:
            guard.cancel()
            self._open.discard(stream)
            call.cancel()

    async def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, so that its reader goes elsewhere."""
        self._draining = True
        for stream in list(self._open):
            stream.end(MeshError.draining())

    async def _guard(self, stream: _Stream, recheck: Recheck) -> None:
        while True:
            await asyncio.sleep(self._recheck_seconds)
            try:
                await recheck()
            except MeshError as error:
                if error.code is grpc.StatusCode.UNAUTHENTICATED:
                    stream.end(error)
                    return
                logger.info("an open stream's credentials could not be checked: %s", error)
            except Exception:
                # Nobody would check this stream any more.
                reference = new_id("err")
                logger.exception("checking an open stream's credentials failed: %s", reference)
                stream.end(MeshError.internal(reference))
                return
