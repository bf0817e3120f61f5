"""Streams whose reader takes nothing.

A write waits while its reader is slow, and so does all that is behind it: a stream holds no more
than what is on the way. Whoever takes nothing at all for too long holds a place for nothing. Their
stream ends, and they may come back to where they were.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError

Behaviour = Callable[[Any, Any], Any]

_RETRY_SECONDS = 1.0
_LONGEST_TICK_SECONDS = 5.0


class SlowReaders:
    """Ends streams that could write nothing for `seconds`; 0 is no limit.

    One task looks at all writes now and then: a timer for each would cost more than the write.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tick = min(_LONGEST_TICK_SECONDS, seconds / 8)
        self._open: set[_Delivery] = set()
        self._looking: asyncio.Task[None] | None = None

    def watching(self, behaviour: Behaviour) -> Behaviour:
        """`behaviour`, a method that streams, held to the limit. It may yield or write."""
        if not self._seconds:
            return behaviour

        async def serve(request: Any, context: Any) -> None:
            delivery = _Delivery(context, self._seconds)
            with self._watched(delivery):
                result = behaviour(request, delivery)
                if not hasattr(result, "__aiter__"):
                    await result
                    return
                async with aclosing(result):
                    async for response in result:
                        await delivery.write(response)

        return serve

    @contextmanager
    def _watched(self, delivery: _Delivery) -> Iterator[None]:
        self._open.add(delivery)
        if self._looking is None:
            # In a context of its own, so that it is no part of a call's trace.
            self._looking = asyncio.create_task(
                self._look_for_ever(), name="slow-readers", context=contextvars.Context()
            )
        try:
            yield
        finally:
            self._open.discard(delivery)
            if not self._open and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _look_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._tick)
            oldest = loop.time() - self._seconds
            for delivery in list(self._open):
                delivery.end_if_begun_before(oldest)


class _Delivery:
    """A call's context that knows since when it has been writing. One task writes at a time."""

    def __init__(self, context: Any, seconds: float) -> None:
        self._context = context
        self._seconds = seconds
        self._write = context.write
        self._time = asyncio.get_running_loop().time
        self._writer: asyncio.Task[Any] | None = None
        self._since = 0.0
        self._given_up = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def write(self, response: Any) -> Awaitable[None]:
        """Sends a response; waits while the reader is slow. Raises MeshError UNAVAILABLE."""
        self._since = self._time()
        self._writer = asyncio.current_task()
        return self._written(response)

    async def _written(self, response: Any) -> None:
        try:
            await self._write(response)
        except asyncio.CancelledError:
            if self._given_up and self._writer is not None:
                self._writer.uncancel()
                raise _nothing_taken(self._seconds) from None
            raise
        finally:
            self._writer = None

    def end_if_begun_before(self, oldest: float) -> None:
        """Breaks the write under way off if it has lasted too long."""
        if self._writer is not None and self._since < oldest and not self._given_up:
            self._given_up = True
            self._writer.cancel()


def _nothing_taken(seconds: float) -> MeshError:
    return MeshError(
        grpc.StatusCode.UNAVAILABLE,
        errors_pb2.ERROR_REASON_SLOW_READER,
        f"nothing of the stream was taken for {seconds:g} seconds; resume it where you are",
        retry_after=_RETRY_SECONDS,
    )
