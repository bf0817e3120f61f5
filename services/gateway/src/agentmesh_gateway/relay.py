"""Streams between callers and other services, forwarded as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_WRITTEN_TOO_LATE = "Internal error from Core"
_STATUS_POLL_SECONDS = 0.01
_STATUS_POLLS = 200

StreamCall: TypeAlias = "grpc.aio.UnaryStreamCall[Any, _Response]"


async def forward(call: StreamCall[_Response]) -> AsyncGenerator[_Response, None]:
    """What `call` yields. Leaving the iterator cancels the call."""
    try:
        async for response in call:
            yield response
    finally:
        call.cancel()


async def hand_on(
    requests: AsyncIterator[_Request], to: Callable[..., Awaitable[_Response]]
) -> _Response:
    """What `to` answers to `requests`. A MeshError of theirs is raised here: grpc itself takes it
    for a reason to cancel the call, and says no more."""
    broken: list[MeshError] = []

    async def watched() -> AsyncIterator[_Request]:
        try:
            async for request in requests:
                yield request
        except MeshError as error:
            broken.append(error)
            raise

    call: Any = to(watched())
    ends = _Ends(call)
    try:
        answer: _Response = await call
    except grpc.aio.AioRpcError as error:
        raise await ends.told(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        if broken:
            raise broken[0] from None
        # The caller has left, which its requests say before the call itself does.
        raise MeshError(
            grpc.StatusCode.CANCELLED,
            errors_pb2.ERROR_REASON_CANCELLED,
            "the requests broke off before their end",
        ) from None
    return answer


class _Ends:
    """The statuses with which a call ends.

    A request that is written when the service has refused the call already makes grpc put INTERNAL
    in the place of the status that the service sent, before or after that one is read.
    """

    def __init__(self, call: Any) -> None:
        self._seen: list[grpc.aio.AioRpcError] = []
        call.add_done_callback(lambda _: self._note(call))

    def _note(self, call: Any) -> None:
        error = grpc.aio.AioRpcError(
            _now(call.code()),
            _now(call.initial_metadata()),
            _now(call.trailing_metadata()),
            _now(call.details()),
        )
        self._seen.append(error)

    async def told(self, error: grpc.aio.AioRpcError) -> Exception:
        """`error`, or what the service said if that was something else."""
        if error.details() != _WRITTEN_TOO_LATE:
            return error
        for _ in range(_STATUS_POLLS):
            for seen in self._seen:
                if seen.details() != _WRITTEN_TOO_LATE:
                    return seen
            await asyncio.sleep(_STATUS_POLL_SECONDS)
        return MeshError.unavailable("the called service", "the stream broke off", retry_after=1.0)


def _now(pending: Any) -> Any:
    """The result of a coroutine that has nothing to wait for, since the call has ended."""
    try:
        pending.send(None)
    except StopIteration as answer:
        return answer.value
    pending.close()
    return None
