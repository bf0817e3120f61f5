"""Bodies that are being read have places and bytes, which come back whatever becomes of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import Gateway, Gateways
from .test_http_limits import ENOUGH_SECONDS, Wire, start, wires  # noqa: F401  a fixture

LARGEST = 50_000
MOST = LARGEST * 8 // 10
"""Two of them are too much, even for what stops things."""


async def tight(gateways: Gateways) -> Gateway:
    """Of one caller it reads one body at a time, and holds as much as one may have."""
    return await start(
        gateways,
        allow_anonymous=True,
        max_calls_under_way=2,
        max_message_bytes=LARGEST,
        http_max_held_body_bytes=LARGEST,
    )


def head(path: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


async def post(gateway: Gateway, path: str = "/conversations/start", size: int = 5) -> Any:
    return await gateway.http.post(
        path, content=b"{" * size, headers={"content-type": "application/json"}
    )


async def until(gateway: Gateway, status: int, size: int = 5) -> Any:
    """Asks for as long as the answer is another."""
    async with asyncio.timeout(ENOUGH_SECONDS):
        while (response := await post(gateway, size=size)).status_code != status:
            await asyncio.sleep(0.01)
    return response


async def test_a_body_that_is_not_complete_has_a_place(
    gateways: Gateways,
    wires: list[Wire],  # noqa: F811  the fixture
) -> None:
    gateway = await tight(gateways)
    wire = await Wire.to(gateway)
    wires.append(wire)
    await wire.send(head("/conversations/start", 100), b"{")
    refused = await until(gateway, 429)
    assert refused.headers["retry-after"] == "1"
    info, _, quota = refused.json()["error"]["details"]
    assert info["reason"] == "QUOTA_EXCEEDED"
    assert quota["violations"][0]["description"] == "1 bodies being read at once at one replica"
    # What has no body needs no place, nor has what stops things.
    assert (await gateway.http.get("/docs")).status_code == 200
    assert (await post(gateway, "/conversations/conv_1/cancel")).status_code == 400
    wire.close()
    await until(gateway, 400)


async def test_what_came_of_a_body_is_held(
    gateways: Gateways,
    wires: list[Wire],  # noqa: F811  the fixture
) -> None:
    gateway = await tight(gateways)
    wire = await Wire.to(gateway)
    wires.append(wire)
    # Of a call that may have a place at any time, so that it is about bytes alone.
    await wire.send(head("/conversations/conv_1/cancel", LARGEST), b" " * MOST)
    async with asyncio.timeout(ENOUGH_SECONDS):
        while (await post(gateway, "/conversations/conv_1/cancel", MOST)).status_code != 429:
            await asyncio.sleep(0.01)
    wire.close()
    await until(gateway, 400, size=MOST)


@pytest.mark.parametrize(
    ("request_head", "sent", "code"),
    [
        (head("/conversations/start", MOST), b"{" * MOST, 400),
        (head("/conversations/start", LARGEST + 1), b"", 413),
        (head("/conversations/start", 5).replace(b"/json", b"/xml"), b"<xml>", 415),
        (head("/conversations/start", 2), b"{}", 400),
    ],
    ids=["malformed", "too large", "of another type", "incomplete"],
)
async def test_all_comes_back_at_the_end(
    gateways: Gateways,
    wires: list[Wire],  # noqa: F811  the fixture
    request_head: bytes,
    sent: bytes,
    code: int,
) -> None:
    gateway = await tight(gateways)
    for _ in range(3):
        wire = await Wire.to(gateway)
        wires.append(wire)
        await wire.send(request_head, sent)
        assert (await wire.response())[0] == code
        wire.close()
