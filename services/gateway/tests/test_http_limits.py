"""Connections that are held for nothing, over bare sockets with tiny limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from .conftest import Gateway, Gateways

GET = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
NEVER = 600.0
ENOUGH_SECONDS = 30


@dataclass
class Wire:
    """A connection to the HTTP edge."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, gateway: Gateway) -> Wire:
        url = urlsplit(gateway.url)
        return cls(*await asyncio.open_connection(url.hostname, url.port))

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def rest(self) -> bytes:
        """All that comes until the gateway closes the connection."""
        received = b""
        async with asyncio.timeout(ENOUGH_SECONDS):
            try:
                while piece := await self.reader.read(65536):
                    received += piece
            except ConnectionError:
                pass  # closed while we still sent
        return received

    async def response(self) -> tuple[int, Any]:
        """The next response that has a length."""
        async with asyncio.timeout(ENOUGH_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await self.reader.readexactly(length)
        return int(head.split()[1]), json.loads(body)

    def close(self) -> None:
        self.writer.close()


def parse(answer: bytes) -> tuple[int, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest_asyncio.fixture
async def wires() -> AsyncIterator[list[Wire]]:
    opened: list[Wire] = []
    yield opened
    for wire in opened:
        wire.close()


async def start(gateways: Gateways, **settings: Any) -> Gateway:
    """No limit but those that the test names."""
    none: dict[str, Any] = {
        "http_header_seconds": 0,
        "http_body_seconds": 0,
        "http_max_connections": 0,
        "http_max_connections_per_address": 0,
    }
    return await gateways.start(**(none | settings))


@pytest.mark.parametrize(
    "pieces",
    [[], [b"GET /hea"], [b"GET /health HTTP/1.1\r\nHost: x\r\n"], [b"\r\n\r\n"]],
    ids=["silence", "half a line", "half a head", "empty lines"],
)
async def test_a_head_that_does_not_come_is_not_waited_for(
    gateways: Gateways, wires: list[Wire], pieces: list[bytes]
) -> None:
    gateway = await start(gateways, http_header_seconds=0.2)
    wire = await Wire.to(gateway)
    wires.append(wire)
    await wire.send(*pieces)
    code, body = parse(await wire.rest())
    assert (code, body["error"]["status"]) == (408, "DEADLINE_EXCEEDED")


async def test_the_second_head_of_a_connection_has_its_time_too(
    gateways: Gateways, wires: list[Wire]
) -> None:
    gateway = await start(gateways, http_header_seconds=0.3)
    wire = await Wire.to(gateway)
    wires.append(wire)
    for _ in range(2):
        await wire.send(GET)
        assert (await wire.response())[0] == 404
    # Neither of these is the beginning of a request to the parser.
    await wire.send(b"\r\n")
    assert parse(await wire.rest())[0] == 408


async def test_drops_of_a_head_do_not_prolong_it(gateways: Gateways, wires: list[Wire]) -> None:
    gateway = await start(gateways, http_header_seconds=0.3)
    wire = await Wire.to(gateway)
    wires.append(wire)
    await wire.send(b"GET /health HTTP/1.1\r\n")
    rest = asyncio.create_task(wire.rest())
    while not rest.done():
        wire.writer.write(b"x: y\r\n")
        await asyncio.sleep(0.02)
    assert b" 408 " in (await rest).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nx: " + b"y" * 3000 + b"\r\n\r\n",
        b"GET /health?" + b"q" * 3000 + b" HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 500,
    ],
    ids=["one header", "query", "many headers, no end"],
)
async def test_a_head_that_is_too_long(gateways: Gateways, wires: list[Wire], head: bytes) -> None:
    gateway = await start(gateways, http_max_header_bytes=2000)
    wire = await Wire.to(gateway)
    wires.append(wire)
    await wire.send(head)
    code, body = parse(await wire.rest())
    assert (code, body["error"]["status"]) == (431, "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize(
    ("settings", "sent", "reason", "said"),
    [
        ({}, b"GET / HTTP/1.1\r\nbroken\r\n\r\n", "MALFORMED_BODY", "header"),
        ({}, b"\x16\x03\x01\x00\xa5", "MALFORMED_BODY", "https://"),
        ({"http_max_header_bytes": 50}, b"GET /" + b"x" * 80, "MESSAGE_TOO_LARGE", "50 bytes"),
        ({"http_header_seconds": 0.1}, b"", "DEADLINE_EXCEEDED", "too long"),
    ],
    ids=["no header", "TLS", "too long", "too slow"],
)
async def test_what_the_server_refuses_itself_looks_like_every_other_error(
    gateways: Gateways,
    wires: list[Wire],
    settings: dict[str, Any],
    sent: bytes,
    reason: str,
    said: str,
) -> None:
    wire = await Wire.to(await start(gateways, **settings))
    wires.append(wire)
    await wire.send(sent)
    answer = await wire.rest()
    code, body = parse(answer)
    error = body["error"]
    assert error["code"] == code
    assert said in error["message"]
    info = error["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (reason, "agentmesh.dev")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"x-request-id: req_" in head
    assert b"x-content-type-options: nosniff" in head


async def test_a_head_within_the_limit_is_served(gateways: Gateways, wires: list[Wire]) -> None:
    gateway = await start(gateways, http_max_header_bytes=2000)
    wire = await Wire.to(gateway)
    wires.append(wire)
    padding = b"x: " + b"y" * 1500 + b"\r\n"
    for _ in range(3):
        await wire.send(GET.replace(b"\r\n\r\n", b"\r\n" + padding + b"\r\n"))
        assert (await wire.response())[0] == 404


UPLOAD = (
    b"POST /conversations/start HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
)


async def test_a_body_that_comes_too_slowly(gateways: Gateways, wires: list[Wire]) -> None:
    gateway = await start(
        gateways, allow_anonymous=True, http_body_seconds=0.3, http_min_body_bytes_per_second=100
    )
    wire = await Wire.to(gateway)
    wires.append(wire)
    await wire.send(UPLOAD)
    rest = asyncio.create_task(wire.rest())
    while not rest.done():
        wire.writer.write(b" ")
        await asyncio.sleep(0.05)
    code, body = parse(await rest)
    assert (code, body["error"]["message"]) == (408, "the body of the request came too slowly")


async def test_a_body_behind_a_refusal_is_not_waited_for_either(
    gateways: Gateways, wires: list[Wire]
) -> None:
    gateway = await start(gateways, http_body_seconds=0.3, http_min_body_bytes_per_second=100)
    wire = await Wire.to(gateway)
    wires.append(wire)
    await wire.send(UPLOAD.replace(b"/conversations/start", b"/no/such/path"))
    assert (await wire.response())[0] == 404
    await wire.rest()


async def test_a_body_that_is_quick_enough(gateways: Gateways, wires: list[Wire]) -> None:
    gateway = await start(
        gateways, allow_anonymous=True, http_body_seconds=0.5, http_min_body_bytes_per_second=1
    )
    wire = await Wire.to(gateway)
    wires.append(wire)
    await wire.send(UPLOAD)
    for _ in range(10):
        await wire.send(b" " * 99)
        await asyncio.sleep(0.06)
    await wire.send(b" " * 9 + b"7")
    assert (await wire.response())[0] == 400


async def test_a_reader_that_takes_nothing_is_dropped(
    gateways: Gateways, wires: list[Wire]
) -> None:
    gateway = await start(gateways, http_write_seconds=0.3)
    wire = await Wire.to(gateway)
    wires.append(wire)
    # Answers that nobody reads, until the buffers on the way are full.
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket's transport
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with asyncio.timeout(ENOUGH_SECONDS):
        with contextlib.suppress(ConnectionError):
            while not wire.writer.transport.is_closing():
                await wire.send(request)
                await asyncio.sleep(0.001)


async def test_connections_are_bounded_and_places_come_back(
    gateways: Gateways, wires: list[Wire]
) -> None:
    gateway = await start(gateways, http_max_connections=3)
    await open_and_refuse(gateway, wires)


async def test_connections_of_one_address_are_bounded(
    gateways: Gateways, wires: list[Wire]
) -> None:
    gateway = await start(gateways, http_max_connections_per_address=3)
    await open_and_refuse(gateway, wires)


async def test_proxies_have_as_many_connections_as_they_need(
    gateways: Gateways, wires: list[Wire]
) -> None:
    gateway = await start(
        gateways, http_max_connections_per_address=3, trusted_proxies=("127.0.0.1",)
    )
    for _ in range(6):
        wires.append(await Wire.to(gateway))
        await wires[-1].send(GET)
        assert (await wires[-1].response())[0] == 404


async def open_and_refuse(gateway: Gateway, wires: list[Wire]) -> None:
    for _ in range(3):
        wires.append(await Wire.to(gateway))
        await wires[-1].send(GET)
        assert (await wires[-1].response())[0] == 404
    one_too_many = await Wire.to(gateway)
    wires.append(one_too_many)
    code, body = parse(await one_too_many.rest())
    assert (code, body["error"]["status"]) == (503, "UNAVAILABLE")
    wires[0].close()
    async with asyncio.timeout(ENOUGH_SECONDS):
        while True:
            again = await Wire.to(gateway)
            wires.append(again)
            await again.send(GET)
            try:
                answer = await again.response()
            except (ConnectionError, asyncio.IncompleteReadError):
                continue
            if answer[0] == 404:
                return


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00", b"HELO mail\r\n\r\n", b"GET\r\n\r\n"])
async def test_what_is_not_http_gets_an_answer_of_ours(
    gateways: Gateways, wires: list[Wire], junk: bytes
) -> None:
    gateway = await start(gateways)
    wire = await Wire.to(gateway)
    wires.append(wire)
    await wire.send(junk)
    code, body = parse(await wire.rest())
    assert (code, body["error"]["status"]) == (400, "INVALID_ARGUMENT")


async def test_requests_one_after_the_other_without_waiting(
    gateways: Gateways, wires: list[Wire]
) -> None:
    gateway = await start(gateways, http_header_seconds=NEVER, http_body_seconds=NEVER)
    wire = await Wire.to(gateway)
    wires.append(wire)
    await wire.send(GET * 5)
    for _ in range(5):
        assert (await wire.response())[0] == 404
