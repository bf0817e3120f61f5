"""Bytes that no client library sends must not end a server."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Any

import pytest
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from meshkit.identity import Principal, principal_scope

GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">IBI", 0x4, 0, 0)
HEADERS, RESET, GOAWAY = 0x1, 0x3, 0x7


def field(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


@pytest.mark.parametrize(
    "changed",
    [{b":path": b"/\xff"}, {b":path": b"/a.B/\xc3"}, {b":authority": b"\xff"}, {b"x": b"\xff"}],
    ids=str,
)
async def test_a_head_that_is_no_text_ends_no_server(
    mesh: Any, operator: Principal, changed: dict[bytes, bytes]
) -> None:
    async def get(request: Any, context: Any) -> Any:
        return catalog.GetDocumentResponse()

    host = await mesh.serve(GetDocument=get)
    head = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/a.B/C",
        b":authority": b"x",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    } | changed
    block = b"".join(field(name, value) for name, value in head.items())
    address, _, port = host.grpc_address.rpartition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    length = struct.pack(">I", len(block))[1:]
    writer.write(PREFACE + length + struct.pack(">BBI", HEADERS, 0x5, 1) + block)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        async with asyncio.timeout(30):
            kind = 0
            while kind not in (HEADERS, RESET, GOAWAY):
                start = await reader.readexactly(9)
                kind = start[3]
                await reader.readexactly(int.from_bytes(start[:3], "big"))
    writer.close()
    with principal_scope(operator):
        await mesh.catalog(host).GetDocument(GET, timeout=30)
