"""Tokens, certificates and trusted proxies over both edges of a running gateway."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_HEAD, StreamItem
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from httpx_sse import aconnect_sse
from meshkit.testkit import HostFactory, TlsFiles, make_client_certificate, make_tls, raises_rich

from .conftest import Gateway, Gateways
from .oidc_issuer import OidcServer, SigningKey
from .scripted_store import Keys, ScriptedStore, events, start_scripted_store
from .test_streams import PATH, forever

KEY = "amk_1"
WEB = "spiffe://example.org/ns/prod/sa/web"
GET = pb2.GetConversationRequest(conversation_id="conv_1")
SPIFFE_IDS = [
    {"trust_domain": "example.org", "path": "/ns/prod/sa/*", "tenant": "default", "role": "admin"}
]


async def gateway_of(
    gateways: Gateways, hosts: HostFactory, *keys: str, **settings: Any
) -> Gateway:
    tls = {name: value for name, value in settings.items() if name in TlsFiles.__annotations__}
    host = await start_scripted_store(hosts, ScriptedStore(forever), Keys(*keys), **tls)
    return await gateways.start(
        **{"store_address": host.grpc_address, "key_cache_seconds": 0.05, **settings}
    )


async def over_grpc(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> str:
    """What a call over gRPC gives: "OK", or the reason why not."""
    stub: Any = ConversationServiceStub(channel)
    try:
        await stub.GetConversation(GET, metadata=metadata, timeout=30)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "OK"


async def over_http(http: httpx.AsyncClient, *headers: tuple[str, str]) -> str:
    """The same over REST."""
    response = await http.get("/conversations/conv_1", headers=list(headers))
    if response.status_code == 200:
        return "OK"
    status = response.json()["error"]
    return f"{status['status']}: {status['message']}"


async def on_both(gateway: Gateway, *pairs: tuple[str, str]) -> str:
    """What both edges give, which is the same."""
    first, second = await over_grpc(gateway.channel, *pairs), await over_http(gateway.http, *pairs)
    assert first == second
    return first


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


async def test_a_token_works_on_both_edges_and_says_what_is_wrong(
    gateways: Gateways, mesh_hosts: HostFactory, issuer: OidcServer
) -> None:
    gateway = await gateway_of(
        gateways, mesh_hosts, KEY, oidc=[issuer.settings(scope_claim="scope")]
    )
    good: dict[str, Any] = {"tenant": "default", "scope": "conversations:read"}
    assert await on_both(gateway, bearer(issuer.token(**good))) == "OK"
    assert await on_both(gateway, ("x-api-key", issuer.token(**good))) == "OK"
    assert await on_both(gateway, bearer(KEY)) == "OK"
    for claims, reason in (
        ({"scope": "agents:read"}, "PERMISSION_DENIED: needs the scope conversations:read"),
        ({"roles": []}, "PERMISSION_DENIED: needs the role viewer; these credentials have none"),
        ({"exp": int(time.time()) - 100}, "UNAUTHENTICATED: the token expired at"),
        ({"aud": "else"}, "UNAUTHENTICATED: the token is for another audience"),
    ):
        token = issuer.token(**(good | claims))
        assert (await on_both(gateway, bearer(token))).startswith(reason)
    stranger = issuer.token(SigningKey.ec("key-1"), **good)
    assert (await on_both(gateway, bearer(stranger))).endswith("signature is wrong")


async def test_an_issuer_ends_anonymity(
    gateways: Gateways, mesh_hosts: HostFactory, issuer: OidcServer
) -> None:
    assert await on_both(await gateway_of(gateways, mesh_hosts)) == "OK"
    guarded = await gateway_of(gateways, mesh_hosts, oidc=[issuer.settings()])
    assert (await on_both(guarded)).startswith("UNAUTHENTICATED: an API key is needed")


async def test_a_stream_ends_with_its_token_and_says_how_to_go_on(
    gateways: Gateways,
    mesh_hosts: HostFactory,
    issuer: OidcServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = await gateway_of(gateways, mesh_hosts, KEY, oidc=[issuer.settings()])
    token = issuer.token(tenant="default")
    stub: Any = ConversationServiceStub(gateway.channel)
    request = pb2.SubscribeConversationRequest(conversation_id="conv_1")
    call = stub.SubscribeConversation(request, metadata=[bearer(token)], timeout=60)
    await call.read()
    headers = dict([bearer(token)])
    async with aconnect_sse(gateway.http, "GET", PATH, headers=headers, timeout=60) as source:
        received = source.aiter_sse()
        await anext(received)
        let_time_pass(monkeypatch, seconds=700)
        frames = [frame async for frame in received if frame.event != "heartbeat"]
    error = json.loads(frames[-1].data)["error"]
    assert (error["code"], error["details"][0]["reason"]) == (401, "CREDENTIALS_EXPIRED")
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_EXPIRED") as ended:
        while True:
            await call.read()
    assert "resume_token" in str(ended.error)
    assert await on_both(gateway, bearer(issuer.token(tenant="default", exp=2**32))) == "OK"


def let_time_pass(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """For tokens; what waits goes on waiting."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=seconds)

    started = time.time
    monkeypatch.setattr("jwt.api_jwt.datetime", Later)
    monkeypatch.setattr(
        "agentmesh_gateway.identity.oidc.tokens.time.time", lambda: started() + seconds
    )


async def test_keys_of_an_issuer_rotate_under_load(
    gateways: Gateways, mesh_hosts: HostFactory, issuer: OidcServer
) -> None:
    gateway = await gateway_of(
        gateways, mesh_hosts, KEY, oidc=[issuer.settings(jwks_refetch_seconds=0.1)]
    )
    outcomes: list[str] = []
    rotating = True

    async def call_all_the_time(edge: Any) -> None:
        while rotating:
            outcomes.append(await edge(bearer(issuer.token(tenant="default"))))

    def grpc_edge(pair: tuple[str, str]) -> Any:
        return over_grpc(gateway.channel, pair)

    def http_edge(pair: tuple[str, str]) -> Any:
        return over_http(gateway.http, pair)

    callers = [asyncio.create_task(call_all_the_time(e)) for e in [grpc_edge, http_edge] * 4]
    for number in range(2, 12):
        issuer.keys = [issuer.keys[-1], SigningKey.ec(f"key-{number}")]
        # The issuer is asked for the new key before its next one comes.
        assert await over_grpc(gateway.channel, bearer(issuer.token(tenant="default"))) == "OK"
        await asyncio.sleep(0.15)
    rotating = False
    await asyncio.gather(*callers)
    assert len(outcomes) > 50
    assert set(outcomes) == {"OK"}
    assert len(issuer.requests) <= 2 * 11


class Certificates:
    """A CA, a gateway's files, and channels that show client certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.folder = folder
        self.files = make_tls(folder / "tls", self.authority)

    def settings(self, **more: Any) -> dict[str, Any]:
        return {**self.files.settings(), "http_tls": True, "spiffe_ids": SPIFFE_IDS, **more}

    def channel(self, gateway: Gateway, *uris: str) -> grpc.aio.Channel:
        certificate, key = make_client_certificate(self.authority, *uris)
        credentials = grpc.ssl_channel_credentials(
            self.files.tls_ca_file.read_bytes(), key, certificate
        )
        return grpc.aio.secure_channel(gateway.host.grpc_address, credentials)

    def http(self, gateway: Gateway, *uris: str, certificate: bool = True) -> httpx.AsyncClient:
        context = ssl.create_default_context(cafile=str(self.files.tls_ca_file))
        if certificate:
            chain, key = self.folder / "client.pem", self.folder / "client.key"
            made = make_client_certificate(self.authority, *uris)
            for file, content in zip((chain, key), made, strict=True):
                file.write_bytes(content)
            context.load_cert_chain(chain, key)
        return httpx.AsyncClient(base_url=gateway.url, verify=context, trust_env=False)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


UNMAPPED = "spiffe://example.org/ns/test/sa/web"


async def test_a_certificate_says_who_calls_over_grpc(
    gateways: Gateways, mesh_hosts: HostFactory, certificates: Certificates
) -> None:
    settings = certificates.settings(tls_require_client_cert=True)
    gateway = await gateway_of(gateways, mesh_hosts, KEY, **settings)
    for uris, expected in (
        ((WEB,), "OK"),
        ((UNMAPPED,), f"UNAUTHENTICATED: nobody here is {UNMAPPED}"),
        ((WEB, UNMAPPED), "UNAUTHENTICATED: a certificate that says who calls has one URI"),
        ((), "UNAUTHENTICATED: a certificate that says who calls has one URI"),
    ):
        async with certificates.channel(gateway, *uris) as channel:
            assert (await over_grpc(channel)).startswith(expected)
            assert await over_grpc(channel, ("x-api-key", KEY)) == "OK"
    bare = grpc.ssl_channel_credentials(certificates.files.tls_ca_file.read_bytes())
    async with grpc.aio.secure_channel(gateway.host.grpc_address, bare) as channel:
        assert (await over_grpc(channel)).startswith("UNAVAILABLE: failed to connect")


@pytest.mark.parametrize("mode", ["accepted", "required", "ignored"])
async def test_a_certificate_says_who_calls_over_https(
    gateways: Gateways, mesh_hosts: HostFactory, certificates: Certificates, mode: str
) -> None:
    settings = certificates.settings(http_client_cert=mode, tls_require_client_cert=True)
    gateway = await gateway_of(gateways, mesh_hosts, KEY, **settings)
    async with certificates.http(gateway, WEB) as http:
        expected = "UNAUTHENTICATED: an API key" if mode == "ignored" else "OK"
        assert (await over_http(http)).startswith(expected)
    if mode == "ignored":
        return
    async with certificates.http(gateway, UNMAPPED) as http:
        assert (await over_http(http)).startswith("UNAUTHENTICATED: nobody here is")
    async with certificates.http(gateway, certificate=False) as http:
        if mode == "accepted":
            assert (await over_http(http)).startswith("UNAUTHENTICATED: an API key is needed")
            return
        with pytest.raises(httpx.TransportError):
            await over_http(http)


ALICE = (
    ("x-agentmesh-subject", "alice"),
    ("x-agentmesh-tenant", "default"),
    ("x-agentmesh-role", "viewer"),
)
FORWARDED = ("x-forwarded-client-cert", f"By=spiffe://a/b;URI={WEB}")


async def test_headers_of_a_proxy_count_from_trusted_peers_alone(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    believed: dict[str, Any] = {
        "trusted_headers": ["identity", "certificate"],
        "spiffe_ids": SPIFFE_IDS,
    }
    near = await gateway_of(gateways, mesh_hosts, KEY, trusted_peers=["127.0.0.1/32"], **believed)
    far = await gateway_of(gateways, mesh_hosts, KEY, trusted_peers=["10.0.0.0/8"], **believed)
    off = await gateway_of(gateways, mesh_hosts, KEY)
    for headers in (ALICE, (FORWARDED,)):
        assert await on_both(near, *headers) == "OK"
        assert "not in AGENTMESH_TRUSTED_PEERS" in await on_both(far, *headers)
        assert "an API key is needed" in await on_both(off, *headers)
        assert await on_both(far, *headers, bearer(KEY)) == "OK"
    assert "an API key is needed" in await on_both(near)


@pytest.mark.parametrize("headers", [ALICE, (FORWARDED,)])
async def test_a_stream_that_a_proxy_vouches_for_lasts(
    gateways: Gateways, mesh_hosts: HostFactory, headers: tuple[tuple[str, str], ...]
) -> None:
    several_checks = asyncio.Event()

    async def until_checked(_: Any) -> AsyncIterator[StreamItem]:
        yield events(1)
        await several_checks.wait()
        yield events(2)

    host = await start_scripted_store(mesh_hosts, ScriptedStore(until_checked), Keys(KEY))
    gateway = await gateways.start(
        store_address=host.grpc_address,
        key_cache_seconds=0.05,
        trusted_headers=["identity", "certificate"],
        spiffe_ids=SPIFFE_IDS,
        trusted_peers=["127.0.0.1/32"],
    )
    stub: Any = ConversationServiceStub(gateway.channel)
    request = pb2.SubscribeConversationRequest(conversation_id="conv_1", until=SUBSCRIBE_UNTIL_HEAD)
    call = stub.SubscribeConversation(request, metadata=headers, timeout=60)
    async with aconnect_sse(
        gateway.http, "GET", PATH, params={"until": "head"}, headers=dict(headers), timeout=60
    ) as source:
        received = source.aiter_sse()
        await anext(received)
        await call.read()
        await asyncio.sleep(0.3)
        several_checks.set()
        assert [frame.event async for frame in received][:1] == ["message"]
    assert (await call.read()).item.events.events[0].sequence == 2
