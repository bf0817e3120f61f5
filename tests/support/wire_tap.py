"""A gRPC proxy that knows the bytes but not the messages, and does something to somebody at a
chosen point: before a request reaches the server, or after the server answered and before the
client knows. It needs nothing of the programs on either side.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import grpc

HOP_BY_HOP = {"user-agent", "te", "content-type", "grpc-accept-encoding"}
Action = Callable[[], Awaitable[None]]


class Side(Enum):
    """On which side of the server's work a point lies."""

    BEFORE = "before"
    AFTER = "after"


@dataclass
class Point:
    """The nth call of a method, or its nth answered one, from 1: before or after the server."""

    method: str
    nth: int
    side: Side
    action: Action
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class WireTap(grpc.GenericRpcHandler):
    """Forwards every call to `upstream`; counts calls by method name (all, answered, still open)
    and fires points."""

    def __init__(self, upstream: str, port: int = 0) -> None:
        self.calls: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.open: Counter[str] = Counter()
        self._points: list[Point] = []
        self._muted: dict[str, asyncio.Event] = {}
        self._actions: list[asyncio.Future[None]] = []
        self._upstream = upstream
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 300),
        ]
        self._channel = grpc.aio.insecure_channel(upstream, options=options)
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((self,))
        self._port = self._server.add_insecure_port(f"127.0.0.1:{port}")

    def forget(self) -> None:
        """Counts from here."""
        self.calls.clear()
        self.answered.clear()

    def mute(self, method: str) -> None:
        """Replies to calls of the method are held back from now on, those of open streams too."""
        self._muted.setdefault(method, asyncio.Event())

    def unmute(self, method: str) -> None:
        """Lets them through, those held back first."""
        if (held := self._muted.pop(method, None)) is not None:
            held.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> WireTap:
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*self._actions, return_exceptions=True)
        await self._server.stop(None)
        await self._channel.close()

    def at(self, side: Side, method: str, nth: int, action: Action) -> Point:
        """Runs `action` once, when the point is reached; the call waits for it."""
        point = Point(method, nth, side, action)
        self._points.append(point)
        return point

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method: str = details.method

        async def forward(
            requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
        ) -> AsyncIterator[bytes]:
            async for reply in self._forward(method, requests, context):
                yield reply

        return grpc.stream_stream_rpc_method_handler(forward)

    async def _forward(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> AsyncIterator[bytes]:
        name = method.rsplit("/", 1)[1]
        self.calls[name] += 1
        nth = self.calls[name]
        await self._fire(Side.BEFORE, name, nth)
        metadata = [
            (key, value)
            for key, value in context.invocation_metadata() or ()
            if key not in HOP_BY_HOP and not key.startswith("grpc-")
        ]
        forward: Any = self._channel.stream_stream(method)
        call = forward(requests, metadata=metadata, timeout=context.time_remaining())
        self.open[name] += 1
        try:
            async for reply in call:
                self.answered[name] += 1
                await self._fire(Side.AFTER, name, self.answered[name])
                if name in self._muted:
                    await self._muted[name].wait()
                yield reply
            context.set_trailing_metadata(tuple(await call.trailing_metadata() or ()))
        except grpc.aio.AioRpcError as error:
            await context.abort(
                error.code(), error.details() or "", tuple(error.trailing_metadata() or ())
            )
        finally:
            self.open[name] -= 1
            call.cancel()

    async def _fire(self, side: Side, method: str, nth: int) -> None:
        for point in self._points:
            due = (point.side, point.method, point.nth) == (side, method, nth)
            if due and not point.reached.is_set():
                point.reached.set()
                # The caller may die of it, and its call with it; the action goes on.
                action = asyncio.ensure_future(self._act(point))
                self._actions.append(action)
                await asyncio.shield(action)

    @staticmethod
    async def _act(point: Point) -> None:
        try:
            await point.action()
        finally:
            point.done.set()
