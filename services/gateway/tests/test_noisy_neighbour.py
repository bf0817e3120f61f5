"""One tenant attacks the gateway; another one works and notices nothing."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_HEAD
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from meshkit.testkit import HostFactory, MeshProcess

from .conftest import Gateway
from .front import Front
from .mesh_behind import publish_definitions, store_process
from .tenants import Caller, caller

ROUNDS = 15
ENOUGH_SECONDS = 240
MESSAGE_BYTES = 65_536
DEFECTS = {"INTERNAL", "UNKNOWN", "DATA_LOSS", "500"}
Attack = Callable[[], Awaitable[str]]


@pytest.fixture
async def front(tmp_path: Path, mesh_hosts: HostFactory) -> AsyncIterator[Front]:
    """Real processes, so that the attack does not slow down who looks at it."""
    settings = {
        "APP_PORT": "0",
        "AGENTMESH_REQUESTS_PER_SECOND": "40",
        "AGENTMESH_MAX_OPEN_STREAMS": "5",
        "AGENTMESH_MAX_MESSAGE_BYTES": str(MESSAGE_BYTES),
        "AGENTMESH_REFUSED_CREDENTIALS_PER_MINUTE": "10",
        # How late its loop is says more about the machine of this test than about the gateway.
        "AGENTMESH_MAX_LOOP_LAG_SECONDS": "0",
    }
    async with store_process(tmp_path / "store") as store:
        await publish_definitions(mesh_hosts, store)
        settings["AGENTMESH_STORE_ADDRESS"] = store.grpc_address
        command = [sys.executable, "-m", "agentmesh_gateway"]
        async with (
            MeshProcess(command, tmp_path / "gateway", settings) as process,
            grpc.aio.insecure_channel(process.grpc_address) as channel,
            httpx.AsyncClient(base_url=process.http_address, timeout=60, trust_env=False) as http,
        ):
            host: Any = None  # it is a process
            yield Front(Gateway(host, http, channel), store)


async def outcome(call: Any) -> str:
    """The name of the status that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def attacks(front: Front, who: Caller) -> dict[str, Attack]:
    """What the attacker does, over and over."""
    stub: Any = front.conversations
    numbers = itertools.count()
    feeds: list[Any] = []

    async def call() -> str:
        return await outcome(
            stub.ListConversations(pb2.ListConversationsRequest(), metadata=who.metadata)
        )

    async def stream() -> str:
        feed = stub.SubscribeTenant(pb2.SubscribeTenantRequest(), metadata=who.metadata)
        feeds.append(feed)  # and keeps it open
        return await outcome(feed.read())

    async def big_message() -> str:
        request = pb2.StartConversationRequest(task="x" * (2 * MESSAGE_BYTES))
        return await outcome(stub.StartConversation(request, metadata=who.metadata))

    async def big_body() -> str:
        response = await front.http.post(
            "/conversations/start", content=b" " * (4 * MESSAGE_BYTES), headers=who.headers
        )
        return str(response.status_code)

    async def bad_key() -> str:
        guess = {"x-api-key": f"amk_{next(numbers)}"}
        return str((await front.http.get("/conversations", headers=guess)).status_code)

    return {
        "calls": call,
        "streams": stream,
        "big messages": big_message,
        "big bodies": big_body,
        "bad keys": bad_key,
    }


async def repeat(attack: Attack, seen: Counter[str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            seen[await attack()] += 1
        except httpx.TransportError:
            seen["closed"] += 1


async def work(front: Front, who: Caller) -> list[str]:
    """A small conversation over both edges; the outcome of each step."""
    stub: Any = front.conversations
    body = {"task": "x", "agents": ["developer"]}
    started = await front.http.post("/conversations/start", json=body, headers=who.headers)
    if started.status_code != 200:
        return [started.text]
    name = started.json()["conversation_id"]
    seen = [str(started.status_code)]
    sent = pb2.SendMessageRequest(conversation_id=name, content="more")
    seen.append(await outcome(stub.SendMessage(sent, metadata=who.metadata)))
    watched = stub.SubscribeConversation(
        pb2.SubscribeConversationRequest(conversation_id=name, until=SUBSCRIBE_UNTIL_HEAD),
        metadata=who.metadata,
    )
    try:
        async for _ in watched:
            pass
    except grpc.aio.AioRpcError as error:
        seen.append(error.code().name)
    shown = await front.http.get(f"/conversations/{name}", headers=who.headers)
    seen.append(str(shown.status_code))
    cancel = pb2.CancelConversationRequest(conversation_id=name)
    seen.append(await outcome(stub.CancelConversation(cancel, metadata=who.metadata)))
    return seen


async def test_one_tenant_attacks_and_another_one_works(
    front: Front, mesh_hosts: HostFactory
) -> None:
    attacker = await caller(front, mesh_hosts, "operator", "attacker")
    worker = await caller(front, mesh_hosts, "operator", "worker")
    assert await work(front, worker) == ["200", "OK", "200", "OK"]
    stop = asyncio.Event()
    seen: dict[str, Counter[str]] = {}
    tasks = []
    for name, attack in attacks(front, attacker).items():
        seen[name] = Counter()
        tasks += [asyncio.create_task(repeat(attack, seen[name], stop)) for _ in range(4)]
    async with asyncio.timeout(ENOUGH_SECONDS):
        outcomes: list[str] = []
        # As long as it takes until each attack has met its limit.
        while len(outcomes) < ROUNDS or not all(_refused(seen)):
            outcomes += await work(front, worker)
            await asyncio.sleep(0.2)  # so as to stay within limits of its own
        stop.set()
        await asyncio.gather(*tasks)
    assert set(outcomes) <= {"200", "OK"}, Counter(outcomes)
    for counted in seen.values():
        assert not counted.keys() & DEFECTS, seen


def _refused(seen: dict[str, Counter[str]]) -> list[int]:
    return [
        seen["calls"]["RESOURCE_EXHAUSTED"],
        seen["streams"]["RESOURCE_EXHAUSTED"],
        seen["big messages"]["RESOURCE_EXHAUSTED"],
        seen["big bodies"]["413"] + seen["big bodies"]["closed"],
        seen["bad keys"]["429"],
    ]
