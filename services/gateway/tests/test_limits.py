"""Limits over both edges, with a real store behind."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import grpc
import httpx
import pytest
from agentmesh.conversation_store.v1 import ledger_service_pb2 as store_pb2
from agentmesh.gateway.v1 import admin_service_pb2 as admin_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh_gateway.limits.buckets import Rate, Take
from agentmesh_gateway.limits.redis_buckets import RedisBuckets
from meshkit.testkit import HostFactory, MeshProcess, raises_rich

from .conftest import Gateway, Gateways
from .front import Front
from .tenants import Caller, caller

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
CONVERSATION = "/conversations/conv_nothing"
LIST = pb2.ListConversationsRequest()
FEED = pb2.SubscribeTenantRequest()


async def before(store: MeshProcess, gateways: Gateways, **settings: Any) -> Front:
    """A gateway that is limited like this, in front of the shared store."""
    gateway = await gateways.start(
        store_address=store.grpc_address, key_cache_seconds=0.05, **settings
    )
    return Front(gateway, store)


def conversations(gateway: Gateway) -> Any:
    return ConversationServiceStub(gateway.channel)


def admin(gateway: Gateway) -> Any:
    return AdminServiceStub(gateway.channel)


async def set_policy(gateway: Gateway, who: Caller, **limits: Any) -> None:
    request = admin_pb2.PutTenantPolicyRequest(policy=store_pb2.TenantPolicy(**limits))
    await admin(gateway).PutTenantPolicy(request, metadata=who.metadata)


async def test_rest_says_how_a_caller_stands_and_when_to_come_back(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await before(
        shared_store, gateways, requests_per_second_per_principal=2, requests_per_second=100
    )
    who = await caller(front, mesh_hosts, "viewer", "rest-standing")
    first = await front.http.get(CONVERSATION, headers=who.headers)
    assert first.status_code == 404
    assert first.headers["ratelimit-policy"] == '"principal";q=4;w=2, "tenant";q=200;w=2'
    assert re.fullmatch(r'"principal";r=3;t=1, "tenant";r=199;t=1', first.headers["ratelimit"])
    responses = [await front.http.get(CONVERSATION, headers=who.headers) for _ in range(50)]
    refused = [response for response in responses if response.status_code == 429]
    assert refused
    assert {response.status_code for response in responses} == {404, 429}
    last = refused[-1]
    assert last.headers["retry-after"] == "1"
    assert last.headers["ratelimit"].startswith('"principal";r=0;t=1')
    info, retry, quota = last.json()["error"]["details"]
    assert info["reason"] == "RATE_LIMITED"
    assert retry["retry_delay"].endswith("s")
    (violation,) = quota["violations"]
    assert violation["subject"] == f"principal:{who.key_id}"
    assert violation["description"] == "2 calls a second, 4 at once"


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "/conversations/start", b"{no json", 400),
        ("PUT", "/admin/policy", b"{}", 403),
        ("GET", "/admin/keys", b"", 403),
    ],
    ids=["malformed", "vital and not allowed", "not allowed"],
)
async def test_requests_that_are_refused_count_too(
    shared_store: MeshProcess,
    gateways: Gateways,
    mesh_hosts: HostFactory,
    method: str,
    path: str,
    body: bytes,
    code: int,
) -> None:
    front = await before(shared_store, gateways, requests_per_second_per_principal=1)
    who = await caller(front, mesh_hosts, "viewer", f"refused-{code}")
    headers = who.headers | {"content-type": "application/json"}
    codes = [
        (await front.http.request(method, path, content=body, headers=headers)).status_code
        for _ in range(20)
    ]
    assert set(codes) == {code, 429}


async def test_a_request_over_rest_is_one_call(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await before(shared_store, gateways, requests_per_second_per_principal=1)
    who = await caller(front, mesh_hosts, "viewer", "one-call")
    first = await front.http.get(CONVERSATION, headers=who.headers)
    assert '"principal";r=1;' in first.headers["ratelimit"]


async def test_not_being_allowed_counts_over_grpc_too(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await before(shared_store, gateways, requests_per_second_per_principal=1)
    who = await caller(front, mesh_hosts, "viewer", "not-allowed")
    listing = admin_pb2.ListKeysRequest()
    with raises_rich(EXHAUSTED, "RATE_LIMITED"):
        for _ in range(20):
            await _try(admin(front.gateway).ListKeys(listing, metadata=who.metadata), but=EXHAUSTED)


async def test_grpc_says_which_limit_and_when_to_come_back(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await before(shared_store, gateways, requests_per_second=1)
    who = await caller(front, mesh_hosts, "viewer", "grpc-standing")
    other = await caller(front, mesh_hosts, "viewer", "grpc-other")
    stub = conversations(front.gateway)
    with raises_rich(EXHAUSTED, "RATE_LIMITED") as caught:
        for _ in range(20):
            await stub.ListConversations(LIST, metadata=who.metadata)
    assert caught.error.retry_after is not None
    assert 0 < caught.error.retry_after <= 1
    assert [quota.subject for quota in caught.error.quotas] == ["tenant:grpc-standing"]
    # Another tenant has a bucket of its own, and what stops things another one.
    await stub.ListConversations(LIST, metadata=other.metadata)
    await admin(front.gateway).CheckHealth(admin_pb2.CheckHealthRequest())
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        await stub.CancelConversation(
            pb2.CancelConversationRequest(conversation_id="conv_nothing"), metadata=who.metadata
        )


async def test_vital_calls_have_a_rate_of_their_own(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await before(shared_store, gateways, requests_per_second=1)
    who = await caller(front, mesh_hosts, "operator", "vital")
    stub = conversations(front.gateway)
    with raises_rich(EXHAUSTED, "RATE_LIMITED"):
        for _ in range(20):
            await stub.ListConversations(LIST, metadata=who.metadata)
    cancel = pb2.CancelConversationRequest(conversation_id="conv_nothing")
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.CancelConversation(cancel, metadata=who.metadata)
    with raises_rich(EXHAUSTED, "RATE_LIMITED"):  # a rate, not none
        for _ in range(20):
            await _try(stub.CancelConversation(cancel, metadata=who.metadata), but=EXHAUSTED)


async def test_a_policy_holds_at_once_and_within_the_ceiling(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await before(
        shared_store,
        gateways,
        requests_per_second=50,
        requests_per_second_per_principal=50,
        limits_ceiling=2,
    )
    who = await caller(front, mesh_hosts, "admin", "policy")
    await set_policy(front.gateway, who, requests_per_second=1, max_open_streams=7)
    response = await front.http.get(CONVERSATION, headers=who.headers)
    assert '"tenant";q=2;w=2' in response.headers["ratelimit-policy"]
    assert '"principal";q=100;w=2' in response.headers["ratelimit-policy"]
    # Limits are vital: whoever set them too low can still raise them.
    await set_policy(front.gateway, who, requests_per_second=100_000)
    response = await front.http.get(CONVERSATION, headers=who.headers)
    assert '"tenant";q=200;w=2' in response.headers["ratelimit-policy"]
    await set_policy(front.gateway, who)
    response = await front.http.get(CONVERSATION, headers=who.headers)
    assert '"tenant";q=100;w=2' in response.headers["ratelimit-policy"]


async def test_a_limit_that_is_no_number_is_refused(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await before(shared_store, gateways)
    who = await caller(front, mesh_hosts, "admin", "refused")
    for field in ("requests_per_second", "max_open_streams", "max_queued_runs"):
        with raises_rich(
            grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field=f"policy.{field}"
        ):
            await set_policy(front.gateway, who, **{field: 0})


async def test_without_limits_nothing_is_said_of_any(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await before(
        shared_store, gateways, requests_per_second=0, requests_per_second_per_principal=0
    )
    who = await caller(front, mesh_hosts, "viewer", "unlimited")
    response = await front.http.get(CONVERSATION, headers=who.headers)
    assert "ratelimit" not in response.headers


@pytest.mark.parametrize(
    ("setting", "subject"),
    [("max_open_streams_per_principal", "principal:"), ("max_open_streams", "tenant:streams")],
)
async def test_open_streams_are_bounded_and_places_come_back(
    shared_store: MeshProcess,
    gateways: Gateways,
    mesh_hosts: HostFactory,
    setting: str,
    subject: str,
) -> None:
    front = await before(shared_store, gateways, **{setting: 2})
    who = await caller(front, mesh_hosts, "operator", "streams")
    stub = conversations(front.gateway)
    feeds = [stub.SubscribeTenant(FEED, metadata=who.metadata) for _ in "12"]
    for feed in feeds:
        await feed.read()  # a heartbeat
    with raises_rich(EXHAUSTED, "QUOTA_EXCEEDED") as caught:
        await stub.SubscribeTenant(FEED, metadata=who.metadata).read()
    assert caught.error.retry_after
    (quota,) = caught.error.quotas
    assert quota.subject.startswith(subject)
    assert quota.description == "2 streams open at once at one replica"
    response = await front.http.get("/conversations/stream", headers=who.headers)
    assert response.status_code == 429
    # Calls that are no streams go on.
    await stub.ListConversations(LIST, metadata=who.metadata)
    feeds[0].cancel()
    async with asyncio.timeout(30):
        while True:
            again = stub.SubscribeTenant(FEED, metadata=who.metadata)
            try:
                await again.read()
            except grpc.aio.AioRpcError as error:
                assert error.code() is EXHAUSTED  # noqa: PT017  the place is not back yet
                await asyncio.sleep(0.02)
            else:
                break
    for call in (*feeds, again):
        call.cancel()


async def test_guessing_keys_ends_soon_and_locks_out_nobody_else(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await before(shared_store, gateways, refused_credentials_per_minute=5)
    who = await caller(front, mesh_hosts, "viewer", "guessed")
    assert (await front.http.get("/conversations", headers=who.headers)).status_code == 200
    codes = [
        (await front.http.get("/conversations", headers={"x-api-key": f"amk_{n}"})).status_code
        for n in range(8)
    ]
    assert codes == [401] * 5 + [429] * 3
    with raises_rich(EXHAUSTED, "RATE_LIMITED") as caught:
        await conversations(front.gateway).ListConversations(
            LIST, metadata=(("x-api-key", "amk_9"),)
        )
    assert caught.error.quotas[0].subject == "address:127.0.0.1"
    assert (await front.http.get("/conversations", headers=who.headers)).status_code == 200


async def test_addresses_behind_a_proxy_are_told_apart_only_if_it_is_trusted(
    shared_store: MeshProcess, gateways: Gateways
) -> None:
    async def guess(http: httpx.AsyncClient, address: str) -> int:
        headers = {"x-api-key": "amk_x", "x-forwarded-for": address}
        return (await http.get("/conversations", headers=headers)).status_code

    trusting = await before(
        shared_store,
        gateways,
        refused_credentials_per_minute=1,
        trusted_proxies=("127.0.0.0/8",),
    )
    wary = await before(shared_store, gateways, refused_credentials_per_minute=1)
    addresses = ("192.0.2.1", "192.0.2.1", "192.0.2.2")
    assert [await guess(trusting.http, a) for a in addresses] == [401, 429, 401]
    assert [await guess(wary.http, a) for a in addresses] == [401, 429, 429]
    over_grpc = (("x-api-key", "amk_x"), ("x-forwarded-for", "192.0.2.2"))
    with raises_rich(EXHAUSTED, "RATE_LIMITED") as caught:
        await conversations(trusting.gateway).ListConversations(LIST, metadata=over_grpc)
    assert caught.error.quotas[0].subject == "address:192.0.2.2"


async def test_the_audit_log_and_the_limits_of_strangers_see_through_trusted_proxies(
    shared_store: MeshProcess,
    gateways: Gateways,
    mesh_hosts: HostFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    front = await before(
        shared_store,
        gateways,
        anonymous_requests_per_second=1,
        trusted_proxies=("127.0.0.1",),
        access_log_reads=1,
    )
    caplog.set_level(logging.INFO, "agentmesh.access")
    for number in range(4):
        response = await front.http.get("/health", headers={"x-forwarded-for": f"192.0.2.{number}"})
        assert response.status_code != 429
    who = await caller(front, mesh_hosts, "viewer", "proxied")
    said = {"x-forwarded-for": "192.0.2.7"}
    await front.http.get("/conversations", headers=who.headers | said)
    (line,) = [one for one in caplog.records if one.name == "agentmesh.access"]
    assert vars(line)["peer"].startswith("ipv4:192.0.2.7")


async def test_health_is_for_everybody_but_not_without_end(gateways: Gateways) -> None:
    gateway = await gateways.start(anonymous_requests_per_second=1)
    responses = await asyncio.gather(*(gateway.http.get("/health") for _ in range(8)))
    codes = sorted(response.status_code for response in responses)
    assert codes.count(503) >= 2
    assert codes.count(429) >= 4


async def test_replicas_share_the_rate_over_redis(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory, redis_url: str
) -> None:
    front = await before(shared_store, gateways, redis_url=redis_url, requests_per_second=1000)
    who = await caller(front, mesh_hosts, "viewer", "shared-rate")
    stub = conversations(front.gateway)
    await stub.ListConversations(LIST, metadata=who.metadata)
    # Another replica, to which the tenant owes an hour.
    other = RedisBuckets(redis_url, "agentmesh", "gw_other")
    await other.take([Take("tenant/shared-rate", Rate(1 / 3600, 1))])
    with raises_rich(EXHAUSTED, "RATE_LIMITED") as caught:
        await stub.ListConversations(LIST, metadata=who.metadata)
    assert caught.error.retry_after is not None
    assert caught.error.retry_after > 3000
    await other.close()


async def _try(call: Any, *, but: grpc.StatusCode) -> None:
    """Makes a call that may fail in any way but one."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is but:
            raise
