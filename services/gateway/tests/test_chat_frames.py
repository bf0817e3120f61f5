"""What one frame of a chat may cost, over bare sockets."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from agentmesh_gateway.http import server as http_server
from agentmesh_gateway.http.websockets import BoundedWebSocketProtocol
from agentmesh_gateway.limits.bodies import Bodies
from agentmesh_gateway.limits.held_frames import HeldFrames
from agentmesh_gateway.limits.overload import Overload
from meshkit.errors import MeshError
from meshkit.testkit import HostFactory
from websockets.asyncio.client import connect

from .conftest import Gateway, Gateways
from .scripted_store import Keys, ScriptedStore, start_scripted_store
from .test_http_limits import Wire
from .test_streams import silent

PATIENCE = 120.0
KIB = 1024
MIB = KIB * KIB
LARGEST = 64 * KIB
PING = b'{"ping": {}}'
TEXT, CONTINUATION, CLOSE, A_PING, PONG = 0x1, 0x0, 0x8, 0x9, 0xA
UPGRADE = (
    b"GET /conversations/converse HTTP/1.1\r\nHost: localhost\r\n%b"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def head(size: int, kind: int = TEXT, *, last: bool = True, reserved: int = 0) -> bytes:
    """Of a frame under a mask that changes nothing."""
    return struct.pack("!BBQI", last << 7 | reserved << 4 | kind, 0xFF, size, 0)


@dataclass
class Chat:
    """A chat, byte by byte."""

    wire: Wire

    async def send(self, *pieces: bytes) -> None:
        await self.wire.send(*pieces)

    async def frame(self) -> tuple[int, bytes]:
        """The kind and the content of the next frame."""
        read = self.wire.reader.readexactly
        async with asyncio.timeout(PATIENCE):
            kind, size = await read(2)
            if size >= 126:
                size = int.from_bytes(await read(2 if size == 126 else 8), "big")
            return kind & 0xF, await read(size)

    async def answer(self) -> dict[str, Any]:
        """The next text frame."""
        kind, content = await self.frame()
        while kind != TEXT:
            assert kind != CLOSE, content
            kind, content = await self.frame()
        answer: dict[str, Any] = json.loads(content)
        return answer

    async def close_code(self) -> int:
        """The code with which the gateway closes it."""
        kind, content = await self.frame()
        while kind != CLOSE:
            kind, content = await self.frame()
        return int.from_bytes(content[:2], "big")

    async def works(self) -> None:
        """Returns when a small frame was answered."""
        await self.send(head(len(PING)) + PING)
        assert "pong" in (await self.answer())["ack"]


Chats = Callable[[Gateway], Any]


@pytest_asyncio.fixture
async def chats() -> AsyncIterator[Chats]:
    opened: list[Wire] = []

    async def chat(gateway: Gateway) -> Chat:
        wire = await Wire.to(gateway)
        opened.append(wire)
        await wire.send(UPGRADE % b"")
        async with asyncio.timeout(PATIENCE):
            answer = await wire.reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in answer
        return Chat(wire)

    yield chat
    for wire in opened:
        wire.writer.transport.abort()


async def start(gateways: Gateways, **settings: Any) -> Gateway:
    """It holds one frame of the largest size for one caller."""
    defaults = {
        "allow_anonymous": True,
        "max_message_bytes": LARGEST,
        "http_max_held_body_bytes": LARGEST,
        "http_body_seconds": 0.0,
    }
    return await gateways.start(**(defaults | settings))


BEGUN, REST = b'{"ping"' + b" " * (60 * KIB), b": {}}"


async def begins(chat: Chat) -> bool:
    """Sends the first piece of a message; whether there is room for it."""
    await chat.send(head(len(BEGUN), last=False) + BEGUN)
    for _ in range(2):  # the first may be answered with what came together with it
        await chat.send(head(0, A_PING))
        kind, content = await chat.frame()
        if kind != PONG:
            assert json.loads(content)["error"]["details"][0]["reason"] == "QUOTA_EXCEEDED"
            return False
    return True


async def ends(chat: Chat) -> None:
    """Sends the rest of it, and is answered."""
    await chat.send(head(len(REST), CONTINUATION) + REST)
    assert "pong" in (await chat.answer())["ack"]


async def test_messages_that_do_not_end_are_bounded_in_all(
    gateways: Gateways, chats: Chats
) -> None:
    gateway = await start(gateways)
    first, second, third = [await chats(gateway) for _ in range(3)]
    assert await begins(first)
    assert not await begins(second)
    assert await second.close_code() == 1013
    async with asyncio.timeout(PATIENCE):
        assert await second.wire.reader.read() == b""
    await third.works()  # what is small needs no room
    await ends(first)
    async with asyncio.timeout(PATIENCE):
        while not await begins(later := await chats(gateway)):  # until the room is given back
            pass
    later.wire.writer.transport.abort()  # so is that of who leaves
    async with asyncio.timeout(PATIENCE):
        while not await begins(await chats(gateway)):
            pass


async def test_so_are_frames(gateways: Gateways, chats: Chats) -> None:
    gateway = await start(gateways)
    both = [await chats(gateway) for _ in range(2)]
    for chat in both:
        await chat.send(head(len(BEGUN + REST)), BEGUN)
    told = [asyncio.create_task(chat.answer()) for chat in both]
    done, _ = await asyncio.wait(told, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = done
    assert refused.result()["error"]["status"] == "RESOURCE_EXHAUSTED"
    left = 1 - told.index(refused)
    await both[left].send(REST)
    assert "pong" in (await told[left])["ack"]


def test_what_a_connection_holds() -> None:
    bodies = Bodies(Overload(max_calls=0, max_lag=0, max_memory=0), 200 * KIB, LARGEST)
    one, other = (HeldFrames(bodies, ("tenant:acme",)) for _ in range(2))
    one.arriving(50 * KIB)
    one.waiting(50 * KIB)  # 84 KiB count
    other.arriving(16 * KIB)
    other.arriving(32 * KIB)
    for more in (other.arriving, other.waiting):
        with pytest.raises(MeshError, match="tenant:acme"):
            more(33 * KIB)
    other.arriving(0)
    other.waiting(32 * KIB)
    one.waiting(0)
    one.arriving(0)
    other.arriving(80 * KIB)


async def test_a_message_that_stays_away_ends_its_chat_and_no_other(
    gateways: Gateways, chats: Chats
) -> None:
    gateway = await start(gateways, http_body_seconds=0.5)
    idle, cut, fragments = [await chats(gateway) for _ in range(3)]
    await cut.send(head(100) + b"{")
    await fragments.send(head(0, last=False))
    for _ in range(9):  # of which there may be so many, and which are no progress
        await fragments.send(head(100, A_PING), b" " * 100)
    for chat in (cut, fragments):
        assert await chat.close_code() == 1008
    await idle.works()


async def test_a_message_may_come_slowly(
    gateways: Gateways, chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_PING_SECONDS", 0.1)
    gateway = await start(
        gateways, http_body_seconds=0.2, http_min_body_bytes_per_second=1, max_message_bytes=LARGEST
    )
    chat = await chats(gateway)
    await chat.send(head(len(PING) + 100) + b" ")
    for _ in range(20):  # and no ping is answered, for ten times as long as that may take
        await chat.send(b" " * 4)
        await asyncio.sleep(0.1)
    await chat.send(b" " * 19 + PING)
    assert "pong" in (await chat.answer())["ack"]


class SlowKeys(Keys):
    """Says of no key whose it is until it is told to."""

    def __init__(self, *secrets: str) -> None:
        super().__init__(*secrets)
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def authenticate_key(self, request: Any, context: Any) -> Any:
        self.asked.set()
        await self.go_on.wait()
        return await super().authenticate_key(request, context)


async def test_nothing_is_read_of_who_is_not_known_yet(
    gateways: Gateways, mesh_hosts: HostFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[int] = []
    receive = BoundedWebSocketProtocol.data_received

    def counted(protocol: BoundedWebSocketProtocol, data: bytes) -> None:
        came.append(len(data))
        receive(protocol, data)

    monkeypatch.setattr(BoundedWebSocketProtocol, "data_received", counted)
    keys = SlowKeys("amk_1")
    store = await start_scripted_store(mesh_hosts, ScriptedStore(silent), keys)
    gateway = await gateways.start(store_address=store.grpc_address, max_message_bytes=64 * MIB)
    wire = await Wire.to(gateway)
    await wire.send(UPGRADE % b"X-Api-Key: amk_1\r\n")
    async with asyncio.timeout(PATIENCE):
        await keys.asked.wait()
    transport, before = wire.writer.transport, 0
    transport.write(head(32 * MIB) + bytes(32 * MIB))
    while (left := transport.get_write_buffer_size()) != before:  # what is between us fills up
        before = left
        await asyncio.sleep(0.2)
    assert left
    assert sum(came) < MIB
    keys.go_on.set()
    async with asyncio.timeout(PATIENCE):
        assert b" 101 " in await wire.reader.readuntil(b"\r\n\r\n")
    transport.abort()


async def test_no_frame_is_compressed(gateways: Gateways, chats: Chats) -> None:
    gateway = await start(gateways)
    url = gateway.url.replace("http", "ws", 1) + "/conversations/converse"
    async with connect(url, proxy=None, compression="deflate") as asking:
        assert asking.protocol.extensions == []
    anyway = await chats(gateway)
    await anyway.send(head(2, reserved=0b100) + b"\x03\x00")
    assert await anyway.close_code() == 1002


async def test_what_a_frame_says_of_its_size_is_enough_to_refuse_it(
    gateways: Gateways, chats: Chats
) -> None:
    gateway = await start(gateways)
    whole, pieces = await chats(gateway), await chats(gateway)
    await whole.send(head(LARGEST + 1))
    await pieces.send(head(40 * KIB, last=False) + bytes(40 * KIB))
    await pieces.send(head(LARGEST - 40 * KIB + 1, CONTINUATION))
    for chat in (whole, pieces):
        assert await chat.close_code() == 1009
