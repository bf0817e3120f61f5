"""Chats that send what costs nothing to send."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh_gateway.http import server as http_server
from agentmesh_gateway.http import websockets as websocket_limits
from meshkit.errors import from_rich_status
from meshkit.testkit import HostFactory, MeshProcess
from websockets.exceptions import ConnectionClosed

from .conftest import Gateway, Gateways
from .front import Front
from .scripted_store import ScriptedStore, start_scripted_store
from .tenants import Caller, caller
from .test_converse_websocket import page
from .test_drain import gateway_process
from .test_http_limits import Wire
from .test_streams import silent

PATIENCE = 30.0
RATE = 20
FLOOD = 3 * RATE
MIB = 1024 * 1024


async def limited(
    store: MeshProcess, gateways: Gateways, hosts: HostFactory, tenant: str
) -> tuple[Front, Caller]:
    gateway = await gateways.start(
        store_address=store.grpc_address,
        key_cache_seconds=0.05,
        requests_per_second_per_principal=RATE,
    )
    front = Front(gateway, store)
    return front, await caller(front, hosts, "user", tenant)


def judged(reasons: list[str]) -> None:
    """A flood is refused as calls are, and goes no quicker than they may."""
    assert set(reasons) == {"", "RATE_LIMITED"}
    assert ("RATE_LIMITED", "RATE_LIMITED") not in itertools.pairwise(reasons)


async def test_pings_over_grpc_cost_as_much_as_calls(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front, who = await limited(shared_store, gateways, mesh_hosts, "pings")
    call = front.conversations.Converse(metadata=who.metadata, timeout=2 * PATIENCE)
    for number in range(FLOOD):
        request = pb2.ConverseRequest(request_id=str(number))
        if number % 2:
            request.ping.SetInParent()
        else:
            request.cancel.SetInParent()  # of no conversation: no call either
        await call.write(request)
    acks = [(await call.read()).ack for _ in range(FLOOD)]
    assert [ack.request_id for ack in acks] == [str(number) for number in range(FLOOD)]
    reasons = [
        from_rich_status(ack.error).reason_name if ack.HasField("error") else "" for ack in acks
    ]
    judged(["" if reason == "INVALID_FIELD" else reason for reason in reasons])
    call.cancel()


async def test_frames_that_cannot_be_read_cost_as_much_as_calls(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front, who = await limited(shared_store, gateways, mesh_hosts, "frames")
    async with page(front.gateway, additional_headers=who.headers) as chat:
        for number in range(FLOOD):
            await chat.socket.send('{"ping": {}}' if number % 16 == 15 else "{")
        acks = [await chat.ack() for _ in range(FLOOD)]
    reasons = [ack["error"]["details"][0]["reason"] if "error" in ack else "" for ack in acks]
    judged(["" if reason == "MALFORMED_BODY" else reason for reason in reasons])


async def alone(gateways: Gateways) -> Gateway:
    """A gateway without a mesh: these chats never get as far."""
    return await gateways.start(allow_anonymous=True)


async def test_who_sends_nothing_that_can_be_read_is_sent_away(gateways: Gateways) -> None:
    async with page(await alone(gateways)) as chat:
        for _ in range(17):
            await chat.socket.send("{")
        for _ in range(16):
            assert "error" in await chat.ack()
        last = await chat.frame()
        assert last["error"]["details"][0]["reason"] == "MALFORMED_BODY"
        assert "17 frames in a row" in last["error"]["message"]
        closed = await chat.rest()
    assert closed.rcvd is not None
    assert (closed.rcvd.code, closed.rcvd.reason) == (1008, "MALFORMED_BODY")


@pytest.mark.parametrize("kind", ["ping", "pong"])
async def test_control_frames_are_bounded(gateways: Gateways, kind: str) -> None:
    async with page(await alone(gateways)) as chat:
        send: Any = getattr(chat.socket, kind)
        for _ in range(20):  # what nobody minds
            await send()
        assert "pong" in await chat.ask(ping={})
        with pytest.raises(ConnectionClosed) as caught:
            await _flooded(send, *([struct.pack("!I", 1)] if kind == "pong" else []))
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1008


async def _flooded(send: Callable[..., Awaitable[Any]], *payload: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            await send(*payload)
            await asyncio.sleep(0)  # or the answer is never read


async def test_a_message_in_any_number_of_pieces_is_none(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_limits, "_MOST_FRAGMENTS", 8)
    async with page(await alone(gateways)) as chat:
        await chat.socket.send(["{", '"ping"', ":", " {", "}", "}"])
        assert "pong" in await chat.ack()
        with contextlib.suppress(ConnectionClosed):
            await chat.socket.send(["{", *[""] * 20])
        await chat.rest()
        assert chat.socket.close_code == 1008


class Stuck(ScriptedStore):
    """Does not say what a conversation is like, so that no chat gets any further."""

    def __init__(self) -> None:
        super().__init__(silent)
        self.go_on = asyncio.Event()

    async def get_conversation(self, request: Any, context: Any) -> Any:
        await self.go_on.wait()
        return await super().get_conversation(request, context)


async def test_nobody_is_sent_away_for_answers_that_are_not_read(
    gateways: Gateways, mesh_hosts: HostFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_PING_SECONDS", 0.1)
    store = Stuck()
    host = await start_scripted_store(mesh_hosts, store)
    gateway = await gateways.start(store_address=host.grpc_address, allow_anonymous=True)
    async with page(gateway, "/conversations/conv_1/converse") as chat:
        await chat.socket.send('{"open": {}}')
        await chat.socket.send('{"ping": {}}' + " " * 300_000)  # beyond what is read ahead
        await asyncio.sleep(1)  # ten times as long as an answer to a ping may take
        store.go_on.set()
        assert "opened" in await chat.ack()
        assert "pong" in await chat.ack()


FRAMES = 6
CHATS = 100


def big_frame() -> bytes:
    """A frame of a MiB, under a mask that changes nothing."""
    return struct.pack("!BBQI", 0x81, 0xFF, MIB, 0) + b'"' + b"x" * (MIB - 2) + b'"'


async def test_frames_that_nobody_takes_wait_at_their_senders(
    mesh_hosts: HostFactory, tmp_path: Path
) -> None:
    store = await start_scripted_store(mesh_hosts, Stuck())
    process = gateway_process(
        tmp_path,
        store.grpc_address,
        AGENTMESH_DRAIN_SECONDS="1",
        AGENTMESH_HTTP_MAX_HELD_BODY_BYTES="0",  # else most are refused
    )
    open_chat = _masked(b'{"open": {}}')
    frame, sent = big_frame(), [0] * CHATS

    async def flood(wire: Wire, number: int) -> None:
        for _ in range(FRAMES):
            await wire.send(frame)
            sent[number] += 1

    async with process:
        wires = [await _upgraded(process) for _ in range(CHATS)]
        before = _resident_bytes(process)
        for wire in wires:
            await wire.send(open_chat)
        flooding = [asyncio.create_task(flood(wire, n)) for n, wire in enumerate(wires)]
        async with asyncio.timeout(2 * PATIENCE):
            known = [-1]
            while known != sent:
                known = list(sent)
                await asyncio.sleep(1)
        grown = _resident_bytes(process) - before
        # One frame each that was read to its end, and what is on its way.
        assert grown < CHATS * 3 * MIB, f"{grown / MIB:.0f} MiB"
        for task in flooding:
            task.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)
        for wire in wires:
            wire.close()


def _masked(text: bytes) -> bytes:
    return struct.pack("!BBI", 0x81, 0x80 | len(text), 0) + text


async def _upgraded(process: MeshProcess) -> Wire:
    url = urlsplit(process.http_address)
    wire = Wire(*await asyncio.open_connection(url.hostname, url.port))
    await wire.send(
        b"GET /conversations/conv_1/converse HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b" 101 " in await wire.reader.readuntil(b"\r\n\r\n")
    return wire


def _resident_bytes(process: MeshProcess) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
