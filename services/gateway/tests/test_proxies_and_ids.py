"""SPIFFE ids and what proxies say: whom they mean, and whose word counts."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh_gateway.identity.authenticator import Authenticator, OtherWays
from agentmesh_gateway.identity.keys import CheckedKeys, KeyCheck
from agentmesh_gateway.identity.peer import Peer, address_of, grpc_peer, http_peer
from agentmesh_gateway.identity.proxies import ProxyHeaders, forwarded_uris
from agentmesh_gateway.identity.settings import OidcIssuer, SpiffeId, trusted_peers
from agentmesh_gateway.identity.spiffe import SpiffeIds
from agentmesh_gateway.settings import GatewaySettings
from meshkit.context import Principal
from meshkit.errors import MeshError
from pydantic import ValidationError

WEB = "spiffe://example.org/ns/prod/sa/web"
PROXY = "spiffe://example.org/ns/istio/sa/gateway"
IDS = SpiffeIds(
    [
        SpiffeId.model_validate(entry).domain()
        for entry in (
            {
                "trust_domain": "example.org",
                "path": "/ns/prod/sa/web",
                "tenant": "acme",
                "role": "service",
            },
            {"trust_domain": "example.org", "path": "/tenants/{tenant}/*", "role": "user"},
            {
                "trust_domain": "other.org",
                "path": "/**",
                "tenant": "o",
                "role": "viewer",
                "scopes": ["agents:read"],
            },
        )
    ]
)
SERVICE = Principal(WEB, "acme", 5)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (WEB, ("acme", 5)),
        ("spiffe://example.org/tenants/globex/app", ("globex", 4)),
        ("spiffe://other.org/a/b/c", ("o", 1)),
        ("spiffe://other.org/a", ("o", 1)),
    ],
)
def test_an_id_is_whom_the_first_rule_says(uri: str, expected: tuple[str, int]) -> None:
    found = IDS.principal_of(uri)
    assert (found.subject, found.tenant, found.role) == (uri, *expected)
    assert (found.scopes is None) == (found.tenant != "o")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://example.org/ns/prod/sa/web2",
        "spiffe://example.org/ns/prod/sa/web/more",
        "spiffe://example.org/ns/prod/sa",
        "spiffe://example.org.evil/ns/prod/sa/web",
        "spiffe://example.org/tenants/*/app",
        "spiffe://example.org/tenants/../app",
        "spiffe://example.org/ns/prod/sa/%77eb",
        "spiffe://example.org/ns/prod/sa/web?x",
        "spiffe://EXAMPLE.org/ns/prod/sa/web",
        "https://example.org/ns/prod/sa/web",
        "spiffe://other.org",
        "spiffe://other.org/" + "a" * 3000,
    ],
)
def test_other_ids_are_nobody(uri: str) -> None:
    with pytest.raises(MeshError):
        IDS.principal_of(uri)


@pytest.mark.parametrize(
    ("header", "uris"),
    [
        (f"By={PROXY};Hash=ab;URI={WEB}", [WEB]),
        (f'Hash=ab;Subject="CN=a,O=\\"b;c\\"";URI={WEB};DNS=x', [WEB]),
        (f"URI=spiffe://example.org/evil/x,By={PROXY};URI={WEB}", [WEB]),
        (f"URI={WEB};uri=spiffe://a/b", [WEB, "spiffe://a/b"]),
        ("Hash=ab", []),
        ("URI=", [""]),
    ],
)
def test_the_nearest_proxy_is_the_one_that_is_read(header: str, uris: list[str]) -> None:
    assert forwarded_uris(header) == uris


@pytest.mark.parametrize(
    "header",
    [
        f'URI={WEB};Subject=",By={PROXY};Subject="CN=x";URI=spiffe://a/b',
        "URI",
        "=x",
        'a=b c="',
        "URI=" + "x" * 20_000,
    ],
)
def test_a_header_that_cannot_be_read_is_refused(header: str) -> None:
    with pytest.raises(MeshError, match="malformed"):
        forwarded_uris(header)


class NoKeys:
    """A directory without any key."""

    async def check(self, secret: str) -> KeyCheck:
        return KeyCheck(None, keys_exist=False)


def authenticator(*, identity: bool = True, certificate: bool = True) -> Authenticator:
    proxies = ProxyHeaders(
        trusted_peers(("10.0.0.0/8", "fd00::/8", PROXY)),
        certificate=certificate,
        identity=identity,
        ids=IDS,
    )
    return Authenticator(
        CheckedKeys(NoKeys(), 5),
        allow_anonymous=False,
        loopback_only=True,
        others=OtherWays(certificates=IDS, proxies=proxies),
    )


TRUSTED = Peer(address_of("10.1.2.3"))
STRANGER = Peer(address_of("11.1.2.3"))
ALICE = {
    "x-agentmesh-subject": "alice",
    "x-agentmesh-tenant": "acme",
    "x-agentmesh-role": "operator",
}


async def who(headers: dict[str, str], peer: Peer, **allowed: bool) -> Principal:
    return await authenticator(**allowed).authenticate(list(headers.items()), peer)


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        (TRUSTED, ALICE, Principal("alice", "acme", 2)),
        (Peer(address_of("::ffff:10.1.2.3")), ALICE, Principal("alice", "acme", 2)),
        (Peer(address_of("fd00::1")), ALICE, Principal("alice", "acme", 2)),
        (Peer(STRANGER.address, (PROXY,), True), ALICE, Principal("alice", "acme", 2)),
        (
            TRUSTED,
            ALICE | {"x-agentmesh-scopes": "agents:read,x"},
            Principal("alice", "acme", 2, scopes=frozenset({"agents:read"})),
        ),
        (TRUSTED, {"x-forwarded-client-cert": f"URI={WEB}"}, SERVICE),
        (Peer(STRANGER.address, (WEB,), True), {}, SERVICE),
    ],
)
async def test_a_trusted_proxy_says_who_calls(
    peer: Peer, headers: dict[str, str], expected: Principal
) -> None:
    assert await who(headers, peer) == expected


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        (STRANGER, ALICE),
        (STRANGER, {"x-forwarded-client-cert": f"URI={WEB}"}),
        (Peer(), ALICE),
        # An own certificate does not make other headers true.
        (Peer(STRANGER.address, (WEB,), True), ALICE),
        (Peer(STRANGER.address, (PROXY, WEB), True), ALICE),
        (TRUSTED, ALICE | {"x-agentmesh-role": "boss"}),
        (TRUSTED, ALICE | {"x-agentmesh-tenant": "*"}),
        (TRUSTED, ALICE | {"x-agentmesh-tenant": ""}),
        (TRUSTED, ALICE | {"x-agentmesh-subject": "key_1"}),
        (TRUSTED, ALICE | {"x-agentmesh-subject": ""}),
        (TRUSTED, {"x-forwarded-client-cert": "Hash=ab"}),
        (TRUSTED, {"x-forwarded-client-cert": f"URI={PROXY}"}),
        (TRUSTED, {}),
        (Peer(STRANGER.address, (), True), {}),
        (Peer(STRANGER.address, (WEB, "https://x"), True), {}),
        (Peer(STRANGER.address, ("spiffe://example.org/x",), True), {}),
    ],
)
async def test_anybody_else_and_anything_else_is_refused(
    peer: Peer, headers: dict[str, str]
) -> None:
    with pytest.raises(MeshError) as refused:
        await who(headers, peer)
    assert refused.value.code.name == "UNAUTHENTICATED"


async def test_only_the_headers_that_are_named_count() -> None:
    for allowed, headers in (
        ({"identity": False}, ALICE),
        ({"certificate": False}, {"x-forwarded-client-cert": f"URI={WEB}"}),
    ):
        with pytest.raises(MeshError, match="an API key is needed"):
            await who(headers, TRUSTED, **allowed)


def test_peers_are_read_from_connections() -> None:
    certificate = {"peer_uri": [WEB.encode()], "x509_pem_cert": [b"x"]}
    assert grpc_peer("ipv4:10.1.2.3:50", certificate) == Peer(TRUSTED.address, (WEB,), True)
    assert grpc_peer("ipv6:%5Bfd00::1%5D:50", {}) == Peer(address_of("fd00::1"))
    assert grpc_peer("unix:/run/x", {}) == Peer()
    names = {"subjectAltName": (("DNS", WEB), ("URI", PROXY))}
    assert http_peer("10.1.2.3", names) == Peer(TRUSTED.address, (PROXY,), True)
    assert http_peer("", None) == Peer()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"trusted_peers": ["10.0.0.0/8"]}, "belong together"),
        ({"trusted_headers": ["identity"]}, "belong together"),
        ({"trusted_peers": ["ten"], "trusted_headers": ["identity"]}, "networks or SPIFFE ids"),
        ({"trusted_peers": ["10.0.0.1/8"], "trusted_headers": ["identity"]}, "host bits"),
        ({"trusted_peers": ["0.0.0.0/0"], "trusted_headers": ["identity"]}, "everybody"),
        ({"trusted_peers": ["::1"], "trusted_headers": ["certificate"]}, "AGENTMESH_SPIFFE_IDS"),
        ({"http_client_cert": "required"}, "AGENTMESH_HTTP_TLS"),
        (
            {"spiffe_ids": [{"trust_domain": "a", "path": "/b", "role": "user", "tenant": "c"}]},
            "nobody is asked",
        ),
    ],
)
def test_settings_that_would_trust_nobody_or_everybody_are_refused(
    settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        GatewaySettings(**settings)


GOOD_ID = {"trust_domain": "a.b", "path": "/x", "role": "user", "tenant": "t"}
GOOD_ISSUER: dict[str, Any] = {
    "issuer": "https://a.b",
    "audience": "m",
    "tenant": "t",
    "default_role": "user",
}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"trust_domain": "A"}, "trust_domain"),
        ({"path": "x"}, "path"),
        ({"path": "/**/x"}, "path"),
        ({"path": "/{tenant}"}, ""),
        ({"tenant": None}, ""),
        ({"tenant": "*"}, "tenant"),
        ({"role": "king"}, "role"),
        ({"scopes": ["agents:eat"]}, "scopes"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_id_is_refused_with_the_field(change: dict[str, Any], where: str) -> None:
    SpiffeId.model_validate(GOOD_ID)
    with pytest.raises(ValidationError) as refused:
        SpiffeId.model_validate(GOOD_ID | change)
    assert ".".join(str(part) for part in refused.value.errors()[0]["loc"][:1]) == where


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"issuer": "http://a.b"}, "issuer"),
        ({"issuer": "https://user:pw@a.b"}, "issuer"),
        ({"issuer": "ftp://a.b"}, "issuer"),
        ({"jwks_url": "http://10.0.0.1/x"}, "jwks_url"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"audience": ""}, "audience"),
        ({"audience": []}, "audience"),
        ({"tenant_claim": "t"}, ""),
        ({"tenant": None}, ""),
        ({"default_role": None}, ""),
        ({"roles": {"x": "king"}}, "roles"),
        ({"clock_skew_seconds": 3600}, "clock_skew_seconds"),
        ({"issuers": []}, "issuers"),
    ],
)
def test_a_bad_issuer_is_refused_with_the_field(change: dict[str, Any], where: str) -> None:
    OidcIssuer.model_validate(GOOD_ISSUER)
    with pytest.raises(ValidationError) as refused:
        OidcIssuer.model_validate(GOOD_ISSUER | change)
    assert ".".join(str(part) for part in refused.value.errors()[0]["loc"][:1]) == where


def test_issuers_must_not_name_each_others_subjects() -> None:
    other = GOOD_ISSUER | {"issuer": "https://c.d"}
    ours, theirs = GOOD_ISSUER | {"subject_prefix": "ab:"}, other | {"subject_prefix": "cd:"}
    settings_of = GatewaySettings.model_validate
    settings_of({"oidc": [ours, theirs]})
    within = other | {"subject_prefix": "ab:cd:"}
    twice = GOOD_ISSUER | {"subject_prefix": "x:"}
    for several in ([GOOD_ISSUER, other], [GOOD_ISSUER, theirs], [ours, within], [ours, twice]):
        with pytest.raises(ValidationError, match="AGENTMESH_OIDC"):
            settings_of({"oidc": several})
