"""Tokens of a real issuer: what they mean, which are refused, and how its keys are kept."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import grpc
import jwt
import pytest
from agentmesh_gateway.identity.oidc.tokens import Tokens
from agentmesh_gateway.identity.settings import OidcIssuer
from cryptography.hazmat.primitives import serialization
from meshkit.context import Principal
from meshkit.errors import MeshError

from .clock import Clock
from .oidc_issuer import OidcServer, SigningKey

RSA_KEY = SigningKey.rsa("rsa-1")


def tokens_of(issuer: OidcServer, clock: Clock | None = None, **fields: Any) -> Tokens:
    settings = OidcIssuer(**issuer.settings(**fields))
    return Tokens([settings.domain()], 5, clock=clock or Clock())


async def refused(tokens: Tokens, token: str, why: str) -> MeshError:
    with pytest.raises(MeshError, match=why) as failure:
        await tokens.principal_of(token)
    error = failure.value
    assert error.code is grpc.StatusCode.UNAUTHENTICATED
    for part in token.split("."):
        assert len(part) < 8 or part not in error.message
    return error


async def test_a_good_token_is_a_principal(issuer: OidcServer) -> None:
    found = await tokens_of(issuer).principal_of(issuer.token())
    assert found == Principal("alice", "acme", 3)
    assert issuer.requests == ["/.well-known/openid-configuration", "/jwks"]


@pytest.mark.parametrize(
    ("settings", "claims", "expected"),
    [
        ({}, {"roles": "mesh-readers other"}, Principal("alice", "acme", 1)),
        ({}, {"roles": ["mesh-readers", "mesh-admins"]}, Principal("alice", "acme", 3)),
        ({}, {"roles": ["unheard-of"]}, Principal("alice", "acme", 0)),
        ({"default_role": "user"}, {"roles": None}, Principal("alice", "acme", 4)),
        (
            {"role_claim": "realm_access.roles"},
            {"realm_access": {"roles": ["mesh-readers"]}},
            Principal("alice", "acme", 1),
        ),
        (
            {"role_claim": "https://mesh.example/roles"},
            {"https://mesh.example/roles": ["mesh-readers"]},
            Principal("alice", "acme", 1),
        ),
        ({"tenant_claim": None, "tenant": "own"}, {"tenant": "x"}, Principal("alice", "own", 3)),
        ({"subject_claim": "email"}, {"email": "a@b.c"}, Principal("a@b.c", "acme", 3)),
        ({"subject_prefix": "corp:"}, {}, Principal("corp:alice", "acme", 3)),
        (
            {"scope_claim": "scope"},
            {"scope": "openid agents:read"},
            Principal("alice", "acme", 3, scopes=frozenset({"agents:read"})),
        ),
        (
            {"scope_claim": "scp", "scope_prefix": "mesh/"},
            {"scp": ["mesh/agents:read", "agents:write"]},
            Principal("alice", "acme", 3, scopes=frozenset({"agents:read"})),
        ),
        ({"scope_claim": "scope"}, {}, Principal("alice", "acme", 3, scopes=frozenset())),
        (
            {"audience": ["other", "agentmesh"]},
            {"aud": ["x", "other"]},
            Principal("alice", "acme", 3),
        ),
    ],
)
async def test_claims_are_read_as_the_settings_say(
    issuer: OidcServer, settings: dict[str, Any], claims: dict[str, Any], expected: Principal
) -> None:
    assert await tokens_of(issuer, **settings).principal_of(issuer.token(**claims)) == expected


NOW = int(time.time())
FAR = 365 * 24 * 3600  # however long the tests before it take


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": NOW - 61}, "expired at"),
        ({"exp": None}, "lacks the claim exp"),
        ({"aud": "somebody"}, "another audience"),
        ({"aud": None}, r"another audience|lacks the claim aud"),
        ({"iss": "https://else.example"}, "issuer is not one of"),
        ({"iss": None}, "issuer is not one of"),
        ({"nbf": NOW + FAR}, "not valid yet"),
        ({"iat": NOW + FAR}, "not valid yet"),
        ({"tenant": None}, "names no tenant"),
        ({"tenant": "*"}, "names no tenant"),
        ({"tenant": ["acme"]}, "names no tenant"),
        ({"sub": None}, "names no subject"),
        ({"sub": "two words"}, "names no subject"),
        ({"sub": "key_01"}, "keeps to itself"),
        ({"sub": "anonymous"}, "keeps to itself"),
        ({"sub": "spiffe://example.org/a"}, "keeps to itself"),
    ],
)
async def test_a_token_with_wrong_claims_is_refused_with_the_reason(
    issuer: OidcServer, claims: dict[str, Any], why: str
) -> None:
    error = await refused(tokens_of(issuer), issuer.token(**claims), why)
    expired = why.startswith("expired")
    assert error.reason_name == ("CREDENTIALS_EXPIRED" if expired else "CREDENTIALS_INVALID")
    if expired:
        assert error.metadata["expired_at"].endswith("Z")
        assert "resume_token" in error.message


async def test_an_issuer_speaks_for_its_own_tenants_only(issuer: OidcServer) -> None:
    tokens = tokens_of(issuer, tenants=["acme"])
    await tokens.principal_of(issuer.token())
    await refused(tokens, issuer.token(tenant="other"), "may not speak for")


async def test_clocks_may_differ_a_little(issuer: OidcServer) -> None:
    token = issuer.token(exp=int(time.time()) - 30, iat=int(time.time()) + 30)
    assert (await tokens_of(issuer).principal_of(token)).subject == "alice"
    await refused(tokens_of(issuer, clock_skew_seconds=5), token, "expired|not valid yet")


def forged(header: dict[str, Any], issuer: OidcServer, key: SigningKey | None = None) -> str:
    """A token whose header says what it must not, with a signature as good as one can make it."""
    good = issuer.token(key)
    payload, signer = good.split(".")[1], key or issuer.keys[-1]
    return jwt.PyJWS().encode(
        base64.urlsafe_b64decode(payload + "=="),
        signer.private,
        algorithm=signer.algorithm,
        headers={"kid": signer.kid} | header,
    )


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"jku": "https://evil.example/jwks"}, "must not have jku"),
        ({"x5u": "https://evil.example/x"}, "must not have x5u"),
        ({"jwk": {"kty": "oct", "k": "AA"}}, "must not have jwk"),
        ({"x5c": ["AA"]}, "must not have x5c"),
        ({"typ": "secevent+jwt"}, "type"),
        ({"kid": "../../etc/passwd"}, "does not publish"),
        ({"kid": "' OR 1=1 --"}, "does not publish"),
        ({"kid": "k" * 257}, "key id"),
    ],
)
async def test_headers_cannot_bring_a_key_of_their_own(
    issuer: OidcServer, header: dict[str, Any], why: str
) -> None:
    await refused(tokens_of(issuer), forged(header, issuer), why)


async def test_a_token_without_or_with_another_algorithm_is_refused(issuer: OidcServer) -> None:
    issuer.keys = [RSA_KEY]
    tokens = tokens_of(issuer)
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    public = RSA_KEY.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    await tokens.principal_of(issuer.token())
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa-1"}').rstrip(b"=")
    body = header + b"." + issuer.token().split(".")[1].encode()
    hmac_algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    tag = base64.urlsafe_b64encode(hmac_algorithm.sign(body, public)).rstrip(b"=")
    confused = (body + b"." + tag).decode()
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": "rsa-1"})
    stronger = jwt.encode(claims, RSA_KEY.private, "RS512", headers={"kid": "rsa-1"})
    for token in (confused, unsigned, stronger):
        await refused(tokens, token, "algorithm must be one of RS256, ES256")


async def test_a_signature_must_be_of_the_named_key(issuer: OidcServer) -> None:
    stranger = SigningKey.ec("key-1")
    await refused(tokens_of(issuer), issuer.token(stranger), "signature is wrong")
    head, body, signature = issuer.token().split(".")
    other = json.loads(base64.urlsafe_b64decode(body + "=="))
    other["tenant"] = "other"
    changed = base64.urlsafe_b64encode(json.dumps(other).encode()).decode().rstrip("=")
    await refused(tokens_of(issuer), f"{head}.{changed}.{signature}", "signature is wrong")
    for broken in ("a.b.c", "..", f"{head}.{body}.", "é.é.é"):
        await refused(tokens_of(issuer), broken, "no JWT|signature is wrong")
    await refused(tokens_of(issuer), "e" * 20_000 + ".b.c", "longer than")


async def test_a_new_key_is_found_at_once_and_made_up_ones_cost_one_fetch(
    issuer: OidcServer,
) -> None:
    clock = Clock()
    tokens = tokens_of(issuer, clock, jwks_url=f"{issuer.url}/jwks")
    await tokens.principal_of(issuer.token())
    clock.now = 10
    issuer.keys.append(SigningKey.ec("key-2"))
    await tokens.principal_of(issuer.token())
    assert len(issuer.requests) == 2
    for number in range(20):
        await refused(tokens, issuer.token(SigningKey.ec(f"made-up-{number}")), "not publish")
    assert len(issuer.requests) == 2
    clock.now = 15
    strangers = [issuer.token(SigningKey.ec(f"more-{number}")) for number in range(20)]
    await asyncio.gather(*(refused(tokens, token, "not publish") for token in strangers))
    assert len(issuer.requests) == 3


async def test_calls_that_come_together_fetch_once(issuer: OidcServer) -> None:
    issuer.delay = 0.05
    tokens = tokens_of(issuer)
    calls = [asyncio.create_task(tokens.principal_of(issuer.token())) for _ in range(20)]
    await asyncio.sleep(0.01)
    calls[0].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[1:] == [Principal("alice", "acme", 3)] * 19
    assert len(issuer.requests) == 2


async def test_old_keys_serve_while_the_issuer_is_away_for_a_bounded_time(
    issuer: OidcServer,
) -> None:
    clock = Clock()
    tokens = tokens_of(issuer, clock, jwks_cache_seconds=60, jwks_grace_seconds=600)
    await tokens.principal_of(issuer.token())
    await issuer.stop()
    for clock.now in (61, 300, 659):
        await tokens.principal_of(issuer.token())
        await tokens.close()
    clock.now = 661
    with pytest.raises(MeshError, match="is not available") as away:
        await tokens.principal_of(issuer.token())
    assert away.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_key_that_is_withdrawn_is_good_no_longer_than_it_is_cached(
    issuer: OidcServer,
) -> None:
    clock = Clock()
    tokens = tokens_of(issuer, clock, jwks_cache_seconds=60)
    old = issuer.token()
    await tokens.principal_of(old)
    issuer.keys = [SigningKey.ec("key-2")]
    clock.now = 61
    await tokens.principal_of(issuer.token())
    await refused(tokens, old, "not publish")


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 302},
        {"status": 500},
        {"body": b"no json"},
        {"body": b"[]"},
        {"body": b'{"issuer": 1, "keys": 7}'},
        {"body": b"[" * 100_000},
        {"padding": 300_000},
        {"says_issuer": "https://else.example"},
        {"keys": []},
        {"keys": [SigningKey.rsa("weak", 1024)]},
        {"delay": 30.0},
    ],
)
async def test_what_an_issuer_answers_wrongly_is_no_key(
    issuer: OidcServer, fault: dict[str, Any]
) -> None:
    tokens = tokens_of(issuer, fetch_seconds=0.2 if "delay" in fault else 60)
    good = issuer.token()
    for name, value in fault.items():
        setattr(issuer, name, value)
    with pytest.raises(MeshError) as away:
        await tokens.principal_of(good)
    assert away.value.code is grpc.StatusCode.UNAVAILABLE
    assert "/jwks" not in issuer.requests or fault.keys() & {"keys"}


async def test_a_token_that_was_believed_ends_on_time(
    issuer: OidcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokens_of(issuer, clock_skew_seconds=0)
    token = issuer.token()
    await tokens.principal_of(token)
    later = time.time() + 601
    monkeypatch.setattr("agentmesh_gateway.identity.oidc.tokens.time.time", lambda: later)
    assert await _known(tokens, token) is None


async def _known(tokens: Tokens, token: str) -> Principal | None:
    """What the cache alone says; the real clock says that the token is good."""
    tokens._issuers.clear()
    try:
        return await tokens.principal_of(token)
    except MeshError:
        return None
