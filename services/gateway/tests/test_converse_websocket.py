"""Converse as a WebSocket: what browsers and scripts send, and what they are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh_gateway.rest.websocket import BEARER_PREFIX, SUBPROTOCOL
from meshkit.testkit import HostFactory
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from .conftest import Gateway, Gateways
from .front import Front
from .scripted_store import Keys, ScriptedStore, start_scripted_store
from .tenants import caller
from .test_streams import forever

START = {"task": "chat", "agents": ["developer"]}
PATIENCE = 30.0


class Page:
    """What reads and writes JSON frames."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    async def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer."""
        await self.socket.send(json.dumps(request))
        return await self.ack()

    async def ack(self) -> dict[str, Any]:
        """The next answer."""
        while True:
            frame = await self.frame()
            if "ack" in frame:
                ack: dict[str, Any] = frame["ack"]
                return ack
            self._take(frame)

    async def frame(self) -> dict[str, Any]:
        """The next frame."""
        async with asyncio.timeout(PATIENCE):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
        return frame

    async def rest(self) -> ConnectionClosed:
        """Reads to the end; how the connection was closed."""
        try:
            while True:
                self._take(await self.frame())
        except ConnectionClosed as closed:
            return closed

    def _take(self, frame: dict[str, Any]) -> None:
        self.events += frame.get("item", {}).get("events", {}).get("events", [])
        if "error" in frame:
            self.events.append(frame)


@asynccontextmanager
async def page(
    gateway: Gateway, path: str = "/conversations/converse", **options: Any
) -> AsyncIterator[Page]:
    url = gateway.url.replace("http://", "ws://") + path
    async with connect(url, proxy=None, **options) as socket:
        yield Page(socket)


def refused(ack: dict[str, Any]) -> str:
    """The fields that an answer complains about."""
    details = ack["error"]["details"]
    return ",".join(
        violation["field"] for detail in details for violation in detail.get("field_violations", ())
    )


async def test_a_conversation_over_a_websocket(front: Front) -> None:
    async with page(front.gateway) as chat:
        opened = await chat.ask(request_id="w1", open={"start": START, "until": "run_end"})
        assert opened["request_id"] == "w1"
        assert opened["opened"]["status"] == "running"
        conversation_id = opened["opened"]["conversation_id"]
        said = await chat.ask(request_id="w2", send_message={"content": "hello"})
        assert said["send_message"]["conversation_id"] == conversation_id
        assert "pong" in await chat.ask(ping={})
        cancelled = await chat.ask(request_id="w3", cancel={})
        assert cancelled["cancel"]["status"] == "cancelled"
        assert "finished" in await chat.ask(request_id="w4", finish={})
        closed = await chat.rest()
    assert closed.rcvd is not None
    assert closed.rcvd.code == 1000
    listed = await front.http.get(f"/conversations/{conversation_id}/events")
    assert chat.events == listed.json()["events"]


async def test_the_address_names_the_conversation(front: Front) -> None:
    conversation_id = (await front.started())["conversation_id"]
    async with page(front.gateway, f"/conversations/{conversation_id}/converse") as chat:
        other = await chat.ask(open={"conversation_id": "conv_other"})
        assert refused(other) == "open.conversation_id"
        opened = await chat.ask(open={"after_sequence": 0})
        assert opened["opened"]["conversation_id"] == conversation_id
        said = await chat.ask(send_message={"content": "hello"})
        assert said["send_message"]["sequence"] > 0


async def test_a_frame_that_cannot_be_read_is_answered_and_ends_nothing(front: Front) -> None:
    async with page(front.gateway) as chat:
        await chat.ask(open={"start": START})
        for text in ("", "{", "[]", "null", '{"ping": {}, "ping": {}}', '{"ping": NaN}', '"x"'):
            await chat.socket.send(text)
            assert "error" in await chat.ack(), text
        assert refused(await chat.ask(request_id="f1", nothing={})) == "nothing"
        wrong = await chat.ask(request_id="f2", send_message={"content": 1, "more": 2})
        assert wrong["request_id"] == "f2"
        assert refused(wrong) == "send_message.content,send_message.more"
        both = await chat.ask(request_id="f3", cancel={}, pause={})
        assert "pause" in refused(both)
        assert "pong" in await chat.ask(ping={})


@pytest.mark.parametrize(
    ("sent", "code"), [(b"\x00", 1003), ("x" * 300_000, 1009)], ids=["binary", "large"]
)
async def test_frames_that_nobody_should_send_close_the_connection(
    gateways: Gateways, sent: Any, code: int
) -> None:
    gateway = await gateways.start(max_message_bytes=262_144, allow_anonymous=True)
    async with page(gateway) as chat:
        await chat.socket.send(sent)
        closed = await chat.rest()
    assert closed.rcvd is not None
    assert closed.rcvd.code == code


async def test_credentials_come_in_a_header_or_as_a_subprotocol(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    admin = await caller(own_front, mesh_hosts, "admin")
    gateway = own_front.gateway
    with pytest.raises(InvalidStatus) as nobody:
        await page(gateway).__aenter__()
    assert nobody.value.response.status_code == 401
    body = json.loads(nobody.value.response.body or b"{}")
    assert body["error"]["status"] == "UNAUTHENTICATED"
    with pytest.raises(InvalidStatus) as wrong:
        await page(gateway, subprotocols=[SUBPROTOCOL, f"{BEARER_PREFIX}amk_no"]).__aenter__()
    assert wrong.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as in_the_address:
        await page(gateway, f"/conversations/converse?api_key={admin.secret}").__aenter__()
    assert in_the_address.value.response.status_code == 401

    async with page(gateway, additional_headers=admin.headers) as script:
        assert "opened" in await script.ask(open={"start": START})
        assert script.socket.subprotocol is None
    offered = [Subprotocol(SUBPROTOCOL), Subprotocol(BEARER_PREFIX + admin.secret)]
    async with page(gateway, subprotocols=offered) as browser:
        assert browser.socket.subprotocol == SUBPROTOCOL
        assert "opened" in await browser.ask(open={"start": START})


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://console.example", 101), ("https://evil.example", 403), ("null", 403), ("own", 101)],
)
async def test_only_known_pages_connect(gateways: Gateways, origin: str, status: int) -> None:
    gateway = await gateways.start(
        allow_anonymous=True, cors_allow_origins=("https://console.example",)
    )
    headers = {"origin": gateway.url if origin == "own" else origin}
    if status == 101:
        async with page(gateway, additional_headers=headers) as chat:
            assert "pong" in await chat.ask(ping={})
        return
    with pytest.raises(InvalidStatus) as refusal:
        await page(gateway, additional_headers=headers).__aenter__()
    assert refusal.value.response.status_code == status


@pytest.mark.parametrize("says_origin", [False, True])
async def test_a_page_of_another_name_is_no_page_of_this_machine(
    front: Front, says_origin: bool
) -> None:
    """A name that was made to resolve to this machine does not make its page an administrator."""
    edge = urlsplit(front.gateway.url)
    site = f"evil.example:{edge.port}"
    with pytest.raises(InvalidStatus) as refusal:
        await connect(
            f"ws://{site}/conversations/converse",
            host=edge.hostname,
            port=edge.port,
            proxy=None,
            additional_headers={"origin": f"http://{site}"} if says_origin else {},
        )
    assert refusal.value.response.status_code == 401
    assert b"evil.example" in (refusal.value.response.body or b"")


@pytest.mark.parametrize("name", ["host", "x-api-key", "authorization"])
async def test_a_header_that_decides_something_comes_once(
    gateways: Gateways, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    gateway = await gateways.start(allow_anonymous=True)
    twice = [(name, "localhost"), (name, "evil.example")]
    with pytest.raises(InvalidStatus) as refusal:
        await page(gateway, additional_headers=twice).__aenter__()
    assert refusal.value.response.status_code == 400
    error = json.loads(refusal.value.response.body or b"{}")["error"]
    assert error["details"][0]["reason"] == "MALFORMED_BODY"
    assert name in error["message"]
    assert not [record for record in caplog.records if record.name == "uvicorn.error"]


@pytest.mark.parametrize("path", ["/", "/conversations", "/conversations/a/b/converse"])
async def test_other_addresses_take_no_websocket(gateways: Gateways, path: str) -> None:
    gateway = await gateways.start()
    with pytest.raises(InvalidStatus) as refusal:
        await page(gateway, path).__aenter__()
    assert refusal.value.response.status_code == 404


async def test_a_subprotocol_of_others_is_refused(gateways: Gateways) -> None:
    gateway = await gateways.start(allow_anonymous=True)
    with pytest.raises(InvalidStatus) as refusal:
        await page(gateway, subprotocols=[Subprotocol("graphql-ws")]).__aenter__()
    assert refusal.value.response.status_code == 400


async def test_a_revoked_key_a_drain_and_a_client_that_leaves_end_the_stream(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    keys = Keys("amk_1", "amk_2", "amk_3")
    store = ScriptedStore(forever)
    host = await start_scripted_store(mesh_hosts, store, keys)
    gateway = await gateways.start(store_address=host.grpc_address, key_cache_seconds=0.05)
    path = "/conversations/conv_1/converse"
    async with page(gateway, path, additional_headers={"x-api-key": "amk_3"}) as leaving:
        await leaving.ask(open={})
        await leaving.frame()
    await asyncio.wait_for(store.left.wait(), PATIENCE)
    async with (
        page(gateway, path, additional_headers={"x-api-key": "amk_1"}) as revoked,
        page(gateway, path, additional_headers={"x-api-key": "amk_2"}) as drained,
    ):
        assert "opened" in await revoked.ask(open={})
        assert "opened" in await drained.ask(open={})
        keys.secrets.remove("amk_1")
        closed = await revoked.rest()
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (1008, "CREDENTIALS_INVALID")
        assert revoked.events[-1]["error"]["status"] == "UNAUTHENTICATED"
        stopping = asyncio.create_task(gateway.host.stop())
        closed = await drained.rest()
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1012
        await stopping


async def test_what_the_store_refuses_ends_the_stream_as_it_ends_a_subscription(
    front: Front,
) -> None:
    conversation_id = (await front.started())["conversation_id"]
    async with page(front.gateway) as chat:
        await chat.socket.send(
            json.dumps({"open": {"conversation_id": conversation_id, "after_sequence": 10**9}})
        )
        assert "opened" in await chat.ack()
        closed = await chat.rest()
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (1008, "BEYOND_HEAD")


def test_items_of_both_streams_are_the_same_bytes() -> None:
    """What the subscription wrote passes through."""
    item = pb2.SubscribeConversationResponse.DESCRIPTOR.fields_by_name["item"]
    same = pb2.ConverseResponse.DESCRIPTOR.fields_by_name["item"]
    assert (item.number, item.message_type) == (same.number, same.message_type)
