"""Responses that are written at once, and those that must not be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from agentmesh_gateway.http import whole_response
from agentmesh_gateway.http.frame import HttpFrame
from agentmesh_gateway.http.proxies import TrustedProxies
from agentmesh_gateway.http.server import HttpServer
from agentmesh_gateway.settings import GatewaySettings

BODY = b'{"a":1}'


class Answering:
    """An application whose response the test sets, behind the frame and a real server."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = [(b"content-length", b"%d" % len(BODY))]
        self.pieces = [BODY]
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.written = 0
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await self.go_on.wait()
        for number, piece in enumerate(self.pieces, 1):
            more = number < len(self.pieces)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to it."""
        url = urlsplit(self.url)
        return await asyncio.open_connection(url.hostname, url.port)

    async def all_of(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer, until the server closes the connection."""
        reader, writer = await self.connected()
        writer.write(request)
        async with asyncio.timeout(20):
            received = await reader.read()
        writer.close()
        head, _, body = received.partition(b"\r\n\r\n")
        return head, body


@pytest_asyncio.fixture
async def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Answering]:
    app = Answering()
    write = whole_response.WholeResponse.write

    async def counted(self: Any, *arguments: Any) -> None:
        app.written += 1
        await write(self, *arguments)

    monkeypatch.setattr(whole_response.WholeResponse, "write", counted)
    settings = GatewaySettings(app_port=0, data_dir=tmp_path, drain_seconds=1.0)
    proxies = TrustedProxies(())
    server = HttpServer(HttpFrame(app, proxies, 0), settings, proxies)
    app.url = await server.start()
    yield app
    app.go_on.set()
    await server.stop()


GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def test_a_response_with_a_length_is_written_at_once(answering: Answering) -> None:
    head, body = await answering.all_of(GET)
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"http/1.1 200 ok"
    assert lines.count(b"content-length: %d" % len(BODY)) == 1
    assert lines.count(b"x-content-type-options: nosniff") == 1
    assert lines.count(b"connection: close") == 1
    assert any(line.startswith(b"date: ") for line in lines)
    assert body == BODY
    assert answering.written == 1


async def test_the_answer_to_head_has_no_body(answering: Answering) -> None:
    head, body = await answering.all_of(GET.replace(b"GET", b"HEAD"))
    assert b"content-length: %d" % len(BODY) in head
    assert body == b""


async def test_a_connection_stays_open_unless_its_client_is_of_old(answering: Answering) -> None:
    reader, writer = await answering.connected()
    async with asyncio.timeout(20):
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"connection:" not in head.lower()
            assert await reader.readexactly(len(BODY)) == BODY
    writer.close()
    head, body = await answering.all_of(b"GET / HTTP/1.0\r\n\r\n")
    assert b"connection: close" in head
    assert body == BODY


async def test_requests_that_do_not_wait_are_answered_in_order(answering: Answering) -> None:
    reader, writer = await answering.connected()
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
    async with asyncio.timeout(20):
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(BODY)) == BODY
    writer.close()


async def test_the_head_of_a_stream_does_not_wait(answering: Answering) -> None:
    answering.headers = []
    answering.go_on.clear()
    reader, writer = await answering.connected()
    writer.write(GET)
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        answering.go_on.set()
        await reader.read()
    writer.close()
    assert b"transfer-encoding: chunked" in head
    assert answering.written == 0


async def test_a_body_in_pieces_is_written_in_pieces(answering: Answering) -> None:
    answering.pieces = [BODY[:3], BODY[3:]]
    _, body = await answering.all_of(GET)
    assert body == BODY
    assert answering.written == 0


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
async def test_no_header_smuggles_another(answering: Answering, end: bytes) -> None:
    answering.headers.append((b"x-request-id", b"a" + end + b"x-evil: yes"))
    head, _ = await answering.all_of(GET)
    assert head.startswith(b"HTTP/1.1 500")
    assert b"x-evil" not in head


async def test_a_wrong_length_is_no_response(answering: Answering) -> None:
    answering.headers = [(b"content-length", b"3")]
    head, body = await answering.all_of(GET)
    assert head.startswith(b"HTTP/1.1 500")
    assert BODY not in body
