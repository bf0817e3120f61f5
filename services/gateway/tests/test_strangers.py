"""Callers who show nothing cost their address something, over each protocol; others pay nothing."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import pytest
from agentmesh.gateway.v1 import admin_service_pb2 as admin_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh_gateway.identity.authenticator import Authenticator
from agentmesh_gateway.identity.keys import CheckedKeys
from agentmesh_gateway.limits.credential_guard import CredentialGuard
from agentmesh_gateway.open_streams import OpenStreams
from meshkit.errors import MeshError
from meshkit.testkit import HostFactory, raises_rich
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from .conftest import Gateway, Gateways
from .scripted_store import Keys, ScriptedStore, start_scripted_store
from .test_identity import ALICE, Directory
from .test_streams import forever

EXHAUSTED, UNKNOWN = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED
SECRET = "amk_1"
KEY = {"x-api-key": SECRET}
ENOUGH_SECONDS = 30


async def guarded(gateways: Gateways, hosts: HostFactory, **settings: Any) -> Gateway:
    store = await start_scripted_store(hosts, ScriptedStore(forever), Keys(SECRET))
    return await gateways.start(store_address=store.grpc_address, **settings)


async def over_rest(gateway: Gateway, **headers: str) -> int:
    return (await gateway.http.get("/conversations/conv_1", headers=headers)).status_code


async def over_grpc(gateway: Gateway, **metadata: str) -> None:
    stub: Any = ConversationServiceStub(gateway.channel)
    named = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
    await stub.GetConversation(pb2.GetConversationRequest(conversation_id="conv_1"), metadata=named)


async def over_websocket(gateway: Gateway) -> int:
    url = gateway.url.replace("http", "ws", 1) + "/conversations/converse"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, proxy=None):
            pass
    return refused.value.response.status_code


async def test_each_protocol_pays_into_the_same_bucket(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await guarded(gateways, mesh_hosts, anonymous_requests_per_second=1)
    assert await over_rest(gateway) == 401
    with raises_rich(EXHAUSTED, "RATE_LIMITED") as caught:
        await over_grpc_until_refused(gateway)
    assert 0 < (caught.error.retry_after or 0) <= 1
    assert caught.error.quotas[0].subject == "address:127.0.0.1"
    assert await used_up(gateway) == 429
    assert await over_websocket_until_refused(gateway) == 429
    # Whoever is known, and whoever asks how the gateway is, pays nothing of it.
    assert await over_rest(gateway, **KEY) == 200
    health: Any = AdminServiceStub(gateway.channel)
    await health.CheckHealth(admin_pb2.CheckHealthRequest())


async def over_grpc_until_refused(gateway: Gateway) -> None:
    """Calls for as long as it is only unknown."""
    async with asyncio.timeout(ENOUGH_SECONDS):
        while True:
            try:
                await over_grpc(gateway)
            except grpc.aio.AioRpcError as error:
                if error.code() is not UNKNOWN:
                    raise


async def used_up(gateway: Gateway) -> int:
    """Calls until it is refused for its number; its status, whose answer says when to come back."""
    async with asyncio.timeout(ENOUGH_SECONDS):
        while True:
            response = await gateway.http.get("/conversations/conv_1")
            if response.status_code != 401:
                break
    assert response.headers["retry-after"] == "1"
    details = response.json()["error"]["details"]
    assert [detail["@type"].rpartition(".")[2] for detail in details] == [
        *("ErrorInfo", "RetryInfo", "QuotaFailure")
    ]
    return response.status_code


async def over_websocket_until_refused(gateway: Gateway) -> int:
    async with asyncio.timeout(ENOUGH_SECONDS):
        while (status := await over_websocket(gateway)) == 401:
            pass
    return status


async def test_the_site_is_the_one_that_a_trusted_proxy_names(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await guarded(
        gateways, mesh_hosts, anonymous_requests_per_second=1, trusted_proxies=("127.0.0.1",)
    )
    numbers = itertools.count()
    async with asyncio.timeout(ENOUGH_SECONDS):
        while True:
            said = {"x-forwarded-for": f"2001:db8::{next(numbers):x}"}
            if await over_rest(gateway, **said) == 429:
                break
    assert await over_rest(gateway, **{"x-forwarded-for": "2001:db8:0:1::1"}) == 401
    with raises_rich(UNKNOWN, "CREDENTIALS_MISSING"):
        await over_grpc(gateway, x_forwarded_for="192.0.2.1")


async def test_checks_of_open_streams_are_no_attempts() -> None:
    guard = CredentialGuard(1, 1)
    authenticator = Authenticator(
        CheckedKeys(Directory({"amk_other": ALICE}), 0),
        allow_anonymous=False,
        loopback_only=False,
        guard=guard,
    )
    with pytest.raises(MeshError):
        await authenticator.authenticate([("x-api-key", "amk_guess")])
    ended: asyncio.Future[MeshError] = asyncio.get_running_loop().create_future()
    streams = OpenStreams(authenticator, access=None, recheck_seconds=0.01)  # type: ignore[arg-type]  # of none is asked what it reads
    with streams.watched((("x-api-key", "amk_revoked"),), ended.set_result):
        async with asyncio.timeout(ENOUGH_SECONDS):
            assert (await ended).reason_name == "CREDENTIALS_INVALID"


async def test_what_is_ignored_of_credentials_makes_no_others(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await guarded(
        gateways, mesh_hosts, refused_credentials_per_minute=1, key_cache_seconds=0
    )
    known = {"authorization": f"Bearer {SECRET}"}
    assert await over_rest(gateway, **known) == 200
    assert await over_rest(gateway, **{"x-api-key": "amk_guess"}) == 401
    assert await over_rest(gateway, **{"x-api-key": "amk_guess"}) == 429
    # The key is not judged where there is a token: beside one it is no guess, and nothing new.
    assert await over_rest(gateway, **known, **{"x-api-key": "amk_2"}) == 200
    await over_grpc(gateway, authorization=f"Bearer {SECRET}", x_api_key="amk_3")


async def test_pages_and_figures_are_not_for_free_either(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await guarded(
        gateways,
        mesh_hosts,
        anonymous_requests_per_second=1,
        refused_credentials_per_minute=1,
        metrics_token="the-token-of-metrics",
    )
    guess = {"authorization": "Bearer a-guess-of-the-token"}
    said = [(await gateway.http.get("/metrics", headers=guess)).status_code for _ in "12"]
    assert said == [401, 429]
    async with asyncio.timeout(ENOUGH_SECONDS):
        while (status := (await gateway.http.get("/docs")).status_code) == 200:
            pass
    assert status == 429
