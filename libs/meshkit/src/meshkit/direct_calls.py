"""Unary calls that the awaiting task makes itself.

grpc.aio starts a task for each of them, registers it, and keeps its metadata in a mapping of lists:
a third of what such a call takes of its caller's processor time. What is below that, grpc's own
channel and its calls, is no public interface: where a release of grpc does not have it as it is
known here, `DirectCalls.of` says None, and calls go the public way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import grpc

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_LEFT = "Locally cancelled by application!"  # in the words of grpc.aio
_PROBE = b"/agentmesh.Probe/Probe"


class DirectCalls:
    """The direct calls of one channel."""

    def __init__(self, start: Callable[..., Any]) -> None:
        self.start = start
        self.under_way: set[Any] = set()
        self._idle: asyncio.Event | None = None

    @classmethod
    def of(cls, channel: grpc.aio.Channel) -> DirectCalls | None:
        """Those of a channel of grpc.aio; None where its calls can only be made the public way."""
        start = getattr(getattr(channel, "_channel", None), "call", None)
        if start is None:
            return None
        try:
            probe = start(_PROBE, None, None, None)
        except TypeError:
            return None
        probe.cancel(_LEFT)
        return cls(start) if hasattr(probe, "unary_unary") else None

    def method(self, path: str, encode: Any, decode: Any) -> DirectMethod:
        """One unary method, with the functions that make bytes of its messages and back."""
        return DirectMethod(self, path.encode(), encode, decode)

    def ended(self, call: Any) -> None:
        """A call is over."""
        self.under_way.discard(call)
        if self._idle is not None and not self.under_way:
            self._idle.set()

    async def close(self, grace: float | None) -> None:
        """Cancels what is under way, after waiting `grace` seconds for it."""
        if grace and self.under_way:
            self._idle = asyncio.Event()
            try:
                async with asyncio.timeout(grace):
                    await self._idle.wait()
            except TimeoutError:
                pass
        for call in list(self.under_way):
            call.cancel(_LEFT)


class DirectMethod:
    """One unary method of one channel."""

    __slots__ = ("calls", "decode", "encode", "path")

    def __init__(self, calls: DirectCalls, path: bytes, encode: Any, decode: Any) -> None:
        self.calls = calls
        self.path = path
        self.encode = encode
        self.decode = decode

    def begin(self, timeout: float | None) -> DirectCall:
        """A call, of which nothing is sent yet; its deadline runs from now on."""
        deadline = None if timeout is None else time.time() + timeout
        return DirectCall(self, self.calls.start(self.path, deadline, None, None))


class DirectCall:
    """One call, with what grpc.aio's calls can be asked."""

    __slots__ = ("_answer", "_call", "_method")

    def __init__(self, method: DirectMethod, call: Any) -> None:
        self._method = method
        self._call = call
        self._answer: Any = None

    async def run(self, request: Any, metadata: tuple[Any, ...]) -> Any:
        """Sends the request; the response. Raises grpc.aio.AioRpcError. Leaving it cancels the
        call. Once only."""
        method, call = self._method, self._call
        under_way = method.calls.under_way
        under_way.add(call)
        try:
            data = request if method.encode is None else method.encode(request)
            answer = await call.unary_unary(data, metadata, None)
        except BaseException:
            self.cancel()
            raise
        finally:
            method.calls.ended(call)
        if not call.is_ok():
            raise await _error_of(call)
        self._answer = answer if method.decode is None else method.decode(answer)
        return self._answer

    def __await__(self) -> Generator[Any, None, Any]:
        """The response once more."""
        yield from self._call.status().__await__()
        if not self._call.is_ok():
            raise (yield from _error_of(self._call).__await__())
        return self._answer

    def cancel(self) -> bool:
        """Cancels the call, unless it is over."""
        if self._call.done():
            return False
        self._call.cancel(_LEFT)
        return True

    def cancelled(self) -> bool:
        """Whether it ended by that."""
        return bool(self._call.cancelled())

    def done(self) -> bool:
        """Whether it is over."""
        return bool(self._call.done())

    def time_remaining(self) -> float | None:
        """Seconds until its deadline."""
        left: float | None = self._call.time_remaining()
        return left

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        """Calls `callback` when it is over."""
        self._call.add_done_callback(partial(callback, self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Of the response."""
        return _metadata(await self._call.initial_metadata())

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Of the response."""
        return _metadata((await self._call.status()).trailing_metadata())

    async def code(self) -> grpc.StatusCode:
        """How it ended."""
        return _code_of(await self._call.status())

    async def details(self) -> str:
        """What the server said about that."""
        return str((await self._call.status()).details())

    async def wait_for_connection(self) -> None:
        """Returns when the call is over: it has no earlier sign of a connection."""
        await self._call.status()


async def _error_of(call: Any) -> BaseException:
    if call.is_locally_cancelled():
        return asyncio.CancelledError()
    status = await call.status()
    return grpc.aio.AioRpcError(
        _code_of(status),
        _metadata(await call.initial_metadata()),
        _metadata(status.trailing_metadata()),
        details=status.details(),
        debug_error_string=status.debug_error_string(),
    )


def _code_of(status: Any) -> grpc.StatusCode:
    return _CODES.get(int(status.code()), grpc.StatusCode.UNKNOWN)


def _metadata(pairs: Any) -> grpc.aio.Metadata:
    return grpc.aio.Metadata.from_tuple(tuple(pairs or ()))
