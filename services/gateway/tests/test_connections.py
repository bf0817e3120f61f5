"""Connections count from when they are accepted until they are closed, whatever they become."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop
from agentmesh_gateway.http.connections import Connections, Place, TooManyConnectionsError
from agentmesh_gateway.http.door import Door
from agentmesh_gateway.http.proxies import TrustedProxies
from meshkit.testkit import TlsFiles, make_tls
from websockets.asyncio.client import connect

from .conftest import Gateways
from .test_http_limits import ENOUGH_SECONDS, GET, NEVER, Wire, parse

NOBODY = TrustedProxies(())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(ENOUGH_SECONDS):
        while not holds():
            await asyncio.sleep(0.005)


class Echo(asyncio.Protocol):
    """What stands behind the door."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.place.leave()


class Noted(Connections):
    """Remembers how many there were."""

    entered = 0

    def enter(self, address: str) -> Place:
        self.entered += 1
        return super().enter(address)


def listening() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener


def contexts(files: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(files.tls_cert_file, files.tls_key_file)
    return served, ssl.create_default_context(cafile=str(files.tls_ca_file))


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_handshakes_count_and_end(
    make_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    served, trusting = contexts(make_tls(tmp_path))

    async def scenario() -> None:
        listener, connections = listening(), Noted(0, 2, NOBODY)
        address = listener.getsockname()
        door = Door(listener, connections, Echo, served, handshake_seconds=0.3)
        door.open()
        silent = [await asyncio.open_connection(*address) for _ in "12"]
        await until(lambda: connections.entered == 2)
        for reader, writer in silent:  # each is left alone when its time is over
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(ENOUGH_SECONDS):
                    assert await reader.read() == b""
            writer.close()
        await until(lambda: len(connections) == 0)
        reader, writer = await asyncio.open_connection(
            *address, ssl=trusting, server_hostname="localhost"
        )
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert len(connections) == 1
        writer.close()
        await until(lambda: len(connections) == 0)
        await asyncio.open_connection(*address)
        await until(lambda: len(connections) == 1)
        door.close()
        listener.close()
        await door.wait_closed()
        assert len(connections) == 0

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(scenario())


async def test_handshakes_that_do_not_end_take_places_of_their_address(
    gateways: Gateways, tmp_path: Path
) -> None:
    files = make_tls(tmp_path / "tls")
    gateway = await gateways.start(
        http_tls=True,
        http_header_seconds=NEVER,
        http_max_connections_per_address=2,
        **files.settings(),
    )
    silent = [await Wire.to(gateway) for _ in "12"]
    refused = await Wire.to(gateway)
    assert await refused.rest() == b""
    silent[0].close()
    url, (_, trusting) = urlsplit(gateway.url), contexts(files)
    async with asyncio.timeout(ENOUGH_SECONDS):
        while True:
            try:
                reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=trusting)
            except OSError:
                continue  # the place is not back yet
            break
    writer.write(GET)
    assert (await Wire(reader, writer).response())[0] == 404
    for wire in (*silent, refused, Wire(reader, writer)):
        wire.close()


async def test_a_websocket_keeps_its_place(gateways: Gateways) -> None:
    gateway = await gateways.start(allow_anonymous=True, http_max_connections_per_address=1)
    url = gateway.url.replace("http", "ws", 1) + "/conversations/converse"
    async with connect(url, proxy=None):
        refused = await Wire.to(gateway)
        assert parse(await refused.rest())[0] == 503
        refused.close()
    async with asyncio.timeout(ENOUGH_SECONDS):
        while True:
            wire = await Wire.to(gateway)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await wire.send(GET)
                if (await wire.response())[0] == 404:
                    break
            wire.close()
    wire.close()


def test_who_counts_as_one_address() -> None:
    connections = Connections(4, 1, TrustedProxies(("10.0.0.0/8",)))
    first = connections.enter("2001:db8::1")
    with pytest.raises(TooManyConnectionsError, match="your address"):
        connections.enter("2001:db8::2")
    first.leave()
    first.leave()
    kept = [connections.enter("::ffff:192.0.2.1"), connections.enter("10.0.0.1")]
    with pytest.raises(TooManyConnectionsError, match="your address"):
        connections.enter("192.0.2.1")
    kept += [connections.enter("10.0.0.1"), connections.enter("::ffff:10.0.0.2")]
    with pytest.raises(TooManyConnectionsError, match="too many connections: "):
        connections.enter("192.0.2.2")
    assert len(connections) == len(kept)
