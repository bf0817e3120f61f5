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
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  a call has one
            delivery = _Delivery(context, task)
            try:
                with self._watched(delivery):
                    await _deliver(behaviour(request, delivery), delivery)
            except asyncio.CancelledError:
                if not delivery.given_up:
                    raise
                task.uncancel()
                raise _nothing_taken(self._seconds) from None

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


async def _deliver(result: Any, delivery: _Delivery) -> None:
    if not hasattr(result, "__aiter__"):
        await result
        return
    async with aclosing(result):
        async for response in result:
            await delivery.write(response)


class _Delivery:
    """A call's context that knows since when it has been writing.

    Whoever writes, it is the call's own task that is ended: a write may be begun by the task that
    brings the news to many.
    """

    def __init__(self, context: Any, task: asyncio.Task[Any]) -> None:
        self._context = context
        self._task = task
        self._write = context.write
        self._time = asyncio.get_running_loop().time
        self._since: float | None = None
        self.given_up = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def write(self, response: Any) -> Awaitable[None]:
        """Sends a response; waits while the reader is slow."""
        self._since = self._time()
        return self._written(response)

    async def _written(self, response: Any) -> None:
        try:
            await self._write(response)
        finally:
            self._since = None

    def end_if_begun_before(self, oldest: float) -> None:
        """Ends the call if the write under way has lasted too long."""
        if self._since is not None and self._since < oldest and not self.given_up:
            self.given_up = True
            self._task.cancel()


def _nothing_taken(seconds: float) -> MeshError:
    return MeshError(
        grpc.StatusCode.UNAVAILABLE,
        errors_pb2.ERROR_REASON_SLOW_READER,
        f"nothing of the stream was taken for {seconds:g} seconds; resume it where you are",
        retry_after=_RETRY_SECONDS,
    )
