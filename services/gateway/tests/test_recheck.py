"""Open streams end with the key that opened them, on both edges, and with nothing less."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_HEAD, StreamItem
from agentmesh.conversation_store.v1 import identity_service_pb2 as identity_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from httpx_sse import aconnect_sse
from meshkit.testkit import HostFactory, raises_rich

from .conftest import Gateway, Gateways
from .scripted_store import Keys, Script, ScriptedStore, events, start_scripted_store
from .test_streams import PATH, forever

SECRET = "amk_1"


async def watched(
    gateways: Gateways, hosts: HostFactory, keys: Keys, script: Script, cache_seconds: float = 0.05
) -> tuple[Gateway, ScriptedStore]:
    store = ScriptedStore(script)
    host = await start_scripted_store(hosts, store, keys)
    gateway = await gateways.start(store_address=host.grpc_address, key_cache_seconds=cache_seconds)
    return gateway, store


def subscribe(gateway: Gateway, **key: str) -> Any:
    stub: Any = ConversationServiceStub(gateway.channel)
    request = pb2.SubscribeConversationRequest(conversation_id="conv_1", until=SUBSCRIBE_UNTIL_HEAD)
    return stub.SubscribeConversation(
        request, timeout=30, metadata=[("x-api-key", secret) for secret in key.values()]
    )


class SlowKeys(Keys):
    """Says nothing of SECRET while `stuck`."""

    stuck = False
    given_up = False

    async def authenticate_key(
        self, request: identity_pb2.AuthenticateKeyRequest, context: Any
    ) -> identity_pb2.AuthenticateKeyResponse:
        if self.stuck and request.secret == SECRET:
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up = True
        return await super().authenticate_key(request, context)


async def test_a_check_that_hangs_holds_up_no_other(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    keys = SlowKeys(SECRET, "amk_other")
    gateway, _ = await watched(gateways, mesh_hosts, keys, forever, cache_seconds=0.3)
    unknown, revoked = subscribe(gateway, key=SECRET), subscribe(gateway, key="amk_other")
    await unknown.read()
    await revoked.read()
    keys.stuck = True
    keys.secrets.remove("amk_other")
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await revoked.read()
    assert not keys.given_up
    assert not unknown.done()
    unknown.cancel()


async def test_a_revoked_key_ends_its_stream_over_grpc(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    keys = Keys(SECRET, "amk_other")
    gateway, store = await watched(gateways, mesh_hosts, keys, forever)
    revoked, kept = subscribe(gateway, key=SECRET), subscribe(gateway, key="amk_other")
    await revoked.read()
    await kept.read()
    keys.secrets.remove(SECRET)
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await revoked.read()
    await store.left.wait()
    assert not kept.done()
    kept.cancel()


async def test_a_revoked_key_ends_its_stream_over_http(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    keys = Keys(SECRET, "amk_other")
    gateway, _ = await watched(gateways, mesh_hosts, keys, forever)
    headers = {"authorization": f"Bearer {SECRET}"}
    async with aconnect_sse(gateway.http, "GET", PATH, headers=headers) as source:
        received = source.aiter_sse()
        await anext(received)
        keys.secrets.remove(SECRET)
        last = await anext(received)
    assert last.event == "error"
    error = json.loads(last.data)["error"]
    assert (error["code"], error["details"][0]["reason"]) == (401, "CREDENTIALS_INVALID")


async def test_the_first_key_ends_anonymous_streams(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    keys = Keys()
    gateway, _ = await watched(gateways, mesh_hosts, keys, forever)
    call = subscribe(gateway)
    await call.read()
    keys.secrets.add(SECRET)
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"):
        await call.read()


async def test_streams_go_on_while_keys_cannot_be_looked_up(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    keys = Keys(SECRET)

    async def until_checks_failed(_: Any) -> AsyncIterator[StreamItem]:
        yield events(1)
        await keys.failed_twice.wait()
        yield events(2)

    gateway, _ = await watched(gateways, mesh_hosts, keys, until_checks_failed)
    call = subscribe(gateway, key=SECRET)
    await call.read()
    keys.down = True
    assert (await call.read()).item.events.events[0].sequence == 2
    assert await call.read() is grpc.aio.EOF
