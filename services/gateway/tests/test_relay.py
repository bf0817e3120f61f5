"""Requests that are handed on as they come, to a service that has heard enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentmesh_gateway.relay import hand_on
from meshkit.errors import MeshError

_METHOD = "/tests.Files/Write"
_TRIES = 300


@pytest_asyncio.fixture
async def refusing() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server that refuses every call when it begins."""

    async def refuse(_: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "no more of that")

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(refuse)
    files = grpc.method_handlers_generic_handler("tests.Files", {"Write": handler})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((files,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def test_a_refusal_is_told_although_the_caller_was_still_sending(
    refusing: grpc.aio.Channel,
) -> None:
    write: Any = refusing.stream_unary(_METHOD)

    async def pieces(number: int) -> AsyncIterator[bytes]:
        for _ in range(number % 30):
            yield b"x" * 1000
            await asyncio.sleep(0)

    for number in range(_TRIES):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hand_on(pieces(number), write)
        assert caught.value.details() == "no more of that"
        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_what_breaks_the_requests_is_told(refusing: grpc.aio.Channel) -> None:
    async def broken() -> AsyncIterator[bytes]:
        raise MeshError.invalid("chunk", "must be a chunk")
        yield b""

    write: Any = refusing.stream_unary(_METHOD)
    with pytest.raises(MeshError, match="must be a chunk"):
        await hand_on(broken(), write)


async def test_requests_that_end_with_their_caller_are_no_defect(
    refusing: grpc.aio.Channel,
) -> None:
    async def left() -> AsyncIterator[bytes]:
        raise asyncio.CancelledError
        yield b""

    write: Any = refusing.stream_unary(_METHOD)
    with pytest.raises(MeshError) as caught:
        await hand_on(left(), write)
    assert caught.value.code is grpc.StatusCode.CANCELLED
