"""Connections that are opened for nothing, over bare sockets."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from meshkit import open_files
from meshkit.identity import Principal, principal_scope
from meshkit.server import ServiceHost
from meshkit.testkit import TlsFiles, make_tls

GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
PATIENCE = 60.0
NEVER = 600.0


async def _ok(request: Any, context: Any) -> Any:
    return catalog.GetDocumentResponse()


@dataclass
class Door:
    """Opens connections to a host, and closes them at the end."""

    tls: TlsFiles | None
    host: ServiceHost | None = None
    opened: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        return self.tls.settings() if self.tls else {}

    async def knock(self) -> asyncio.StreamReader:
        """A connection that says nothing."""
        return await self._connect(None)

    async def greet(self) -> asyncio.StreamReader:
        """A connection that has shaken hands. Raises OSError if it is refused."""
        context = None
        if self.tls is not None:
            context = ssl.create_default_context(cafile=str(self.tls.tls_ca_file))
            context.set_alpn_protocols(["h2"])
        reader = await self._connect(context)
        self.opened[-1].write(HELLO)
        async with asyncio.timeout(PATIENCE):
            if not await reader.read(9):
                raise ConnectionResetError
        return reader

    async def _connect(self, context: ssl.SSLContext | None) -> asyncio.StreamReader:
        assert self.host is not None
        name, _, port = self.host.grpc_address.rpartition(":")
        reader, writer = await asyncio.open_connection(
            name, int(port), ssl=context, server_hostname="localhost" if context else None
        )
        self.opened.append(writer)
        return reader

    def leave(self, number: int = -1) -> None:
        self.opened.pop(number).transport.abort()


@pytest_asyncio.fixture(params=["plain", "TLS"])
async def door(request: Any, tmp_path: Path) -> AsyncIterator[Door]:
    door = Door(make_tls(tmp_path / "tls") if request.param == "TLS" else None)
    yield door
    for writer in door.opened:
        writer.transport.abort()


async def is_closed(reader: asyncio.StreamReader) -> None:
    """Returns when the other side has ended the connection."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            while await reader.read(4096):
                pass


async def test_one_too_many_is_refused_and_those_there_are_left_alone(
    mesh: Any, operator: Principal, door: Door
) -> None:
    limits = {"max_connections": 3, "handshake_seconds": NEVER}
    host = door.host = await mesh.serve(GetDocument=_ok, settings=limits | door.settings)
    known, late = mesh.catalog(host, **door.settings), mesh.catalog(host, **door.settings)
    with principal_scope(operator):
        await known.GetDocument(GET)
        for _ in range(2):
            await door.greet()
        with contextlib.suppress(OSError):
            await is_closed(await door.greet())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await late.GetDocument(GET, timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await known.GetDocument(GET)
        door.leave(0)
        await late.GetDocument(GET, timeout=PATIENCE, wait_for_ready=True)
        await known.GetDocument(GET)


async def test_who_does_not_shake_hands_makes_room_in_time(
    mesh: Any, operator: Principal, door: Door
) -> None:
    limits = {"max_connections": 2, "handshake_seconds": 1.0}
    host = door.host = await mesh.serve(GetDocument=_ok, settings=limits | door.settings)
    silent = [await door.knock() for _ in range(2)]
    for reader in silent:
        await is_closed(reader)
    with principal_scope(operator):
        await mesh.catalog(host, **door.settings).GetDocument(
            GET, timeout=PATIENCE, wait_for_ready=True
        )


async def test_no_limit_is_none(mesh: Any, operator: Principal, door: Door) -> None:
    host = door.host = await mesh.serve(
        GetDocument=_ok, settings={"max_connections": 0} | door.settings
    )
    for _ in range(5):
        await door.greet()
    with principal_scope(operator):
        await mesh.catalog(host, **door.settings).GetDocument(GET)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The soft and the hard limit of open files, as the process would see and set them."""
    limits = [1024, 20_000]

    def put(_: int, new: tuple[int, int]) -> None:
        assert new[0] > limits[0], "the limit is only raised"
        assert new[1] == limits[1], "the hard limit stays"
        limits[:] = new

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", put)
    return limits


def test_connections_leave_files_for_all_else(files: list[int]) -> None:
    assert open_files.connections_that_fit(500) == (500,)
    assert files == [1024, 20_000]  # that is enough
    assert open_files.connections_that_fit(5000, 5000) == (5000, 5000)
    assert files == [10_256, 20_000]
    assert open_files.connections_that_fit(10_000, 30_000) == (4936, 14_808)
    assert files == [20_000, 20_000]
    assert open_files.connections_that_fit(0, 30_000) == (0, 19_744)  # 0 is no limit


def test_a_process_with_hardly_any_files_still_serves(files: list[int]) -> None:
    files[:] = [64, 64]
    assert open_files.connections_that_fit(10_000, 10_000) == (16, 16)


def test_a_system_without_a_limit_has_room_for_all(files: list[int]) -> None:
    files[:] = [1024, resource.RLIM_INFINITY]
    assert open_files.connections_that_fit(50_000) == (50_000,)
    assert files[0] == 50_256


def test_a_limit_that_cannot_be_raised_holds(
    files: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int, __: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert open_files.connections_that_fit(10_000) == (768,)
