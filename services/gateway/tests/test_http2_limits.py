"""What one HTTP/2 connection may do at the gRPC edge."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from meshkit.testkit import HostFactory

from .conftest import Gateway, Gateways
from .scripted_store import ScriptedStore, start_scripted_store
from .test_streams import forever

ENOUGH_SECONDS = 60
WATCH = pb2.SubscribeConversationRequest(conversation_id="conv_1")


async def start(gateways: Gateways, hosts: HostFactory, **settings: Any) -> Gateway:
    store = await start_scripted_store(hosts, ScriptedStore(forever))
    return await gateways.start(store_address=store.grpc_address, **settings)


async def watch(gateway: Gateway) -> Any:
    stub: Any = ConversationServiceStub(gateway.channel)
    call = stub.SubscribeConversation(WATCH)
    await call.read()
    return call


async def check(channel: grpc.aio.Channel, **options: Any) -> None:
    """A call that is answered at once."""
    stub: Any = ConversationServiceStub(channel)
    try:
        await stub.ListConversations(pb2.ListConversationsRequest(), **options)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # the store of this test has no list
            raise


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_streams_of_one_connection_are_bounded(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await start(gateways, mesh_hosts, grpc_max_streams_per_connection=2)
    await check(gateway.channel)  # by now the client has read the server's settings
    calls = [await watch(gateway) for _ in range(2)]
    assert await code_of(check(gateway.channel, timeout=0.5)) is grpc.StatusCode.DEADLINE_EXCEEDED
    async with grpc.aio.insecure_channel(
        gateway.host.grpc_address, [("grpc.use_local_subchannel_pool", 1)]
    ) as other:
        await check(other)
    calls[0].cancel()
    await check(gateway.channel, timeout=ENOUGH_SECONDS)


async def test_a_head_that_is_too_long_is_refused(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await start(gateways, mesh_hosts, grpc_max_header_bytes=4096)
    long = (("x-long", "y" * 5000),)
    assert await code_of(check(gateway.channel, metadata=long)) is (
        grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    await check(gateway.channel, metadata=(("x-short", "y" * 500),))


async def test_who_pings_without_end_is_sent_away(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await start(gateways, mesh_hosts, grpc_min_ping_seconds=3600)
    pushy = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    async with grpc.aio.insecure_channel(gateway.host.grpc_address, pushy) as channel:
        stub: Any = ConversationServiceStub(channel)
        call = stub.SubscribeConversation(WATCH)
        await call.read()
        try:
            async with asyncio.timeout(ENOUGH_SECONDS):
                while await call.read() is not grpc.aio.EOF:
                    pass
        except grpc.aio.AioRpcError as error:
            said = (error.code(), error.details())
    assert said[0] is grpc.StatusCode.UNAVAILABLE
    assert "ping" in str(said[1])


async def test_an_old_connection_is_replaced_and_its_calls_have_their_grace(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await start(
        gateways,
        mesh_hosts,
        grpc_max_connection_age_seconds=0.5,
        grpc_max_connection_grace_seconds=0.5,
    )
    call = await watch(gateway)
    try:
        async with asyncio.timeout(ENOUGH_SECONDS):
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        code = error.code()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert await code_of(check(gateway.channel, timeout=ENOUGH_SECONDS, wait_for_ready=True)) is (
        grpc.StatusCode.OK
    )


async def test_connections_are_bounded_and_those_without_calls_end(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await start(
        gateways,
        mesh_hosts,
        max_connections=3,
        handshake_seconds=600.0,
        grpc_max_connection_idle_seconds=0.5,
    )
    call = await watch(gateway)
    name, _, port = gateway.host.grpc_address.rpartition(":")
    silent = [await asyncio.open_connection(name, int(port)) for _ in range(2)]
    await _ends(await asyncio.open_connection(name, int(port)))
    silent.pop()[1].close()
    async with asyncio.timeout(ENOUGH_SECONDS):
        greeted = b""
        while not greeted:  # the place is not back yet
            reader, writer = await asyncio.open_connection(name, int(port))
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            greeted = await reader.read(9)
    await _ends((reader, writer))
    assert not call.done()
    silent.pop()[1].close()


async def _ends(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(ENOUGH_SECONDS):
            while await reader.read(4096):
                pass
    writer.close()
