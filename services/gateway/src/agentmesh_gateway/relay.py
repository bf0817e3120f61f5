"""Streams between callers and other services, forwarded as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc
from meshkit.errors import MeshError

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

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

    try:
        return await to(watched())
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not broken or (task is not None and task.cancelling()):
            raise
        raise broken[0] from None
