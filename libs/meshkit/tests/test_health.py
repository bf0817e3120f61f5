"""The health service, and how many may watch it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from meshkit.errors import MeshError
from meshkit.server import ServiceHost
from meshkit.testkit import raises_rich
from meshkit.watches import Watches

from .test_hostile_bytes import PREFACE, field

Response = health_pb2.HealthCheckResponse
PATIENCE = 60.0
TURNS = "agentmesh.conversation_store.v1.TurnService"


@asynccontextmanager
async def channel_to(host: ServiceHost) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(host.grpc_address) as channel:
        yield channel


async def watch(channel: grpc.aio.Channel, service: str = "") -> tuple[Any, int]:
    """A watch, and what it heard first."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(service=service))
    return call, (await call.read()).status


async def until_open(channel: grpc.aio.Channel) -> None:
    """Returns when a watch may be opened; it is closed again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                call, _ = await watch(channel)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                continue
            call.cancel()
            return


async def test_watches_are_bounded_and_checks_are_free(mesh: Any) -> None:
    host = await mesh.serve(settings={"max_watches": 2, "max_watches_per_address": 0})
    async with channel_to(host) as channel:
        held = [await watch(channel) for _ in range(2)]
        with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"):
            await watch(channel)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(20):
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == Response.SERVING
        held[0][0].cancel()
        await until_open(channel)


async def test_streams_of_reflection_take_places_too(mesh: Any) -> None:
    host = await mesh.serve(settings={"max_watches": 0, "max_watches_per_address": 1})
    async with channel_to(host) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await call.read()
        with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"):
            await watch(channel)
        await call.done_writing()
        await until_open(channel)


def test_who_counts_as_one_address() -> None:
    watches = Watches(3, 1)
    with watches.one("ipv6:[2001:db8::1]:4711"), watches.one("ipv4:192.0.2.1:1"):
        with pytest.raises(MeshError, match="1 watches"), watches.one("ipv6:%5B2001:db8::2%5D:1"):
            pass
        with (
            watches.one("unix:"),
            pytest.raises(MeshError, match="3 watches"),
            watches.one("ipv4:192.0.2.2:1"),
        ):
            pass
        with watches.one("unix:"):
            pass


async def test_a_watch_that_ends_leaves_the_news_to_others(mesh: Any) -> None:
    host = await mesh.serve()
    async with channel_to(host) as channel:
        first, _ = await watch(channel, TURNS)
        second, heard = await watch(channel, TURNS)
        assert heard == Response.SERVING
        first.cancel()
        third, _ = await watch(channel, TURNS)  # by now the server knows that the first has ended
        host.set_serving(TURNS, False)
        for call in (second, third):
            async with asyncio.timeout(PATIENCE):
                assert (await call.read()).status == Response.NOT_SERVING
            call.cancel()


async def test_a_service_that_comes_later_is_unknown_until_then(mesh: Any) -> None:
    host = await mesh.serve()
    async with channel_to(host) as channel:
        call, heard = await watch(channel, "later")
        assert heard == Response.SERVICE_UNKNOWN
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="later"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        host.set_serving("later", True)
        async with asyncio.timeout(PATIENCE):
            assert (await call.read()).status == Response.SERVING
        call.cancel()


async def test_who_watches_and_reads_nothing_holds_up_nobody(mesh: Any) -> None:
    host = await mesh.serve(settings={"drain_seconds": 0.5})
    name, _, port = host.grpc_address.rpartition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    head = b"".join(
        field(key, value)
        for key, value in {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": b"/grpc.health.v1.Health/Watch",
            b":authority": b"x",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
        }.items()
    )
    no_window = (4).to_bytes(2, "big") + bytes(4)
    writer.write(PREFACE + _frame(4, 0, 0, no_window))
    writer.write(_frame(1, 4, 1, head) + _frame(0, 1, 1, bytes(5)))
    async with asyncio.timeout(PATIENCE):
        while (await reader.readexactly(9))[3] != 1:  # the head of the answer
            pass
    async with channel_to(host) as channel:
        call, _ = await watch(channel)
        host.set_serving("", False)
        async with asyncio.timeout(PATIENCE):
            assert (await call.read()).status == Response.NOT_SERVING
        async with asyncio.timeout(PATIENCE):
            await host.stop()
    writer.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload
