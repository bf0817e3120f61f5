"""Readers that stop reading: what they hold is bounded, and they may come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from agentmesh.conversation.v1.stream_pb2 import StreamItem
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh_gateway.limits.slow_readers import SlowReaders
from meshkit.eager import Begun
from meshkit.errors import MeshError, from_rpc_error
from meshkit.testkit import HostFactory
from websockets.asyncio.client import connect

from .conftest import Gateway, Gateways
from .scripted_store import events
from .test_http_limits import Wire
from .test_streams import PATH, open_both
from .watching import View

PATIENCE = 30.0
SECONDS = 0.5
KIB = 1024
MOST_KIB = 64 * KIB
"""Buffers of this test's own client, of the kernel and of each hop on the way count as well."""


class Log:
    """A log without an end, of events of 64 KiB."""

    def __init__(self) -> None:
        self.sent_kib = 0

    async def __call__(
        self, request: store_pb2.SubscribeConversationRequest
    ) -> AsyncIterator[StreamItem]:
        sequence = int(request.resume_token.removeprefix("token-") or request.after_sequence or 0)
        while True:
            sequence += 1
            item = events(sequence)
            item.events.events[0].message.content = "x" * (64 * KIB)
            self.sent_kib += 64
            yield item


async def ended(log: Log, left: asyncio.Event) -> None:
    """Waits until the gateway has given up its stream of a log that went out as far as it could."""
    async with asyncio.timeout(PATIENCE):
        await left.wait()
    assert log.sent_kib < MOST_KIB


def grpc_call(gateway: Gateway, method: str, token: str = "") -> Any:
    stub: Any = ConversationServiceStub(gateway.channel)
    if method == "subscribe":
        wanted = pb2.SubscribeConversationRequest(conversation_id="conv_1", resume_token=token)
        return stub.SubscribeConversation(wanted, timeout=2 * PATIENCE)
    opening = pb2.ConverseOpen(conversation_id="conv_1", resume_token=token)

    async def requests() -> AsyncIterator[pb2.ConverseRequest]:
        yield pb2.ConverseRequest(open=opening)
        await asyncio.Event().wait()

    return stub.Converse(requests(), timeout=2 * PATIENCE)


async def _read_on(call: Any, view: View) -> None:
    while (response := await call.read()) is not grpc.aio.EOF:
        view.take(response.item)


@pytest.mark.parametrize("method", ["subscribe", "converse"])
async def test_over_grpc(gateways: Gateways, mesh_hosts: HostFactory, method: str) -> None:
    log = Log()
    gateway, store = await open_both(
        gateways, mesh_hosts, log, slow_reader_seconds=SECONDS, max_open_streams=1
    )
    call = grpc_call(gateway, method)
    first = await call.read()  # an event, or the answer to what was asked
    await ended(log, store.left)
    rest = View()
    rest.last = first.item.events.events[-1].sequence if first.item.events.events else 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _read_on(call, rest)
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason_name) == (grpc.StatusCode.UNAVAILABLE, "SLOW_READER")
    assert error.retry_after
    # The place is free, and nothing is lost.
    again = grpc_call(gateway, method, rest.token)
    while not (response := await again.read()).item.events.events:
        pass
    assert response.item.events.events[0].sequence == rest.last + 1
    again.cancel()


@pytest.mark.parametrize("limit", ["http_write_seconds", "slow_reader_seconds"])
async def test_over_server_sent_events(
    gateways: Gateways, mesh_hosts: HostFactory, limit: str
) -> None:
    log = Log()
    gateway, store = await open_both(gateways, mesh_hosts, log, **{limit: SECONDS})
    wire = await Wire.to(gateway)
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket's transport
    head = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    await wire.send(head.encode())
    await ended(log, store.left)
    wire.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
    received = (await wire.rest()).split(b"\n\n")
    if limit == "slow_reader_seconds":
        assert b"SLOW_READER" in received[-2]  # who comes back in time is told
    ids = [
        line[4:] for frame in received[:-1] for line in frame.splitlines() if line[:4] == b"id: "
    ]
    assert ids == [str(number).encode() for number in range(1, len(ids) + 1)]
    async with gateway.http.stream("GET", PATH, headers={"last-event-id": str(len(ids))}) as again:
        async for line in again.aiter_lines():
            if line.startswith("id: "):
                assert line == f"id: {len(ids) + 1}"
                break


async def test_over_a_websocket(gateways: Gateways, mesh_hosts: HostFactory) -> None:
    log = Log()
    gateway, store = await open_both(gateways, mesh_hosts, log, http_write_seconds=SECONDS)
    url = gateway.url.replace("http://", "ws://") + "/conversations/conv_1/converse"
    async with connect(url, proxy=None, max_queue=1, close_timeout=1) as socket:
        await socket.send(json.dumps({"open": {}}))
        await socket.recv()
        await ended(log, store.left)


async def test_who_brings_the_news_is_not_ended_for_a_slow_reader() -> None:
    """As subscribers do it: the task that has the news for all of them begins their writes."""
    written: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    news: asyncio.Future[Begun] = asyncio.get_running_loop().create_future()

    class Stuck:
        async def write(self, _: bytes) -> None:
            await asyncio.Event().wait()

    async def subscribe(_: Any, context: Any) -> None:
        written.set_result(context.write)
        await (await news)

    async def bring() -> None:
        news.set_result(Begun((await written)(b"news")))
        await asyncio.Event().wait()

    serve = SlowReaders(SECONDS).watching(subscribe)
    serving = asyncio.create_task(serve(None, Stuck()))
    bringing = asyncio.create_task(bring())
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(MeshError, match="nothing of the stream was taken"):
            await serving
    assert not serving.cancelled()
    assert not bringing.done(), "it was ended in the place of the call"
    bringing.cancel()
