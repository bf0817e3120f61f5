"""Tokens: what they carry, how long they hold, and which are refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from meshkit.context import Principal
from meshkit.errors import MeshError
from meshkit.identity import InternalIdentity, current_principal, principal_scope
from meshkit.ids import new_id
from meshkit.testkit import test_settings

WHO = Principal("key_1", "acme", 2)


@pytest.fixture
def identity(tmp_path: Path) -> InternalIdentity:
    return InternalIdentity("gateway", test_settings(tmp_path, internal_secret="s" * 32))


def test_a_minted_token_is_cached_and_names_its_service(identity: InternalIdentity) -> None:
    token = identity.mint(WHO)
    assert identity.mint(WHO) is token
    assert identity.mint(Principal("key_1", "acme", 3)) != token
    assert identity.verify(token) == Principal("key_1", "acme", 2, "gateway")


def test_tokens_age(identity: InternalIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    token = identity.mint(WHO)
    identity.verify(token)
    now = time.time()
    monkeypatch.setattr("meshkit.identity.time.time", lambda: now + 200)
    renewed = identity.mint(WHO)
    assert renewed != token
    identity.verify(token)
    monkeypatch.setattr("meshkit.identity.time.time", lambda: now + 301)
    assert identity._principals.get(token) is None


def test_expired_and_foreign_tokens_are_refused(identity: InternalIdentity) -> None:
    claims: dict[str, Any] = {
        "iss": "gateway",
        "aud": "agentmesh-internal",
        "sub": "x",
        "tenant": "acme",
        "role": 3,
        "exp": int(time.time()) - 60,
    }
    key = identity._internal_key
    bad = [
        jwt.encode(claims, key, algorithm="HS256"),
        jwt.encode(claims | {"exp": 2**33, "aud": "agentmesh-run"}, key, algorithm="HS256"),
        jwt.encode(claims | {"exp": 2**33}, key * 2, algorithm="HS512"),
        jwt.encode(claims | {"exp": 2**33}, "", algorithm="none"),
        jwt.encode({k: v for k, v in claims.items() if k != "exp"}, key, algorithm="HS256"),
        "not a token",
    ]
    for token in bad:
        with pytest.raises(MeshError):
            identity.verify(token)


def test_a_capability_is_no_internal_token_nor_the_other_way(identity: InternalIdentity) -> None:
    capability = identity.mint_capability(
        tenant="acme", conversation_id="conv_1", run_id="run_1", fence=3
    )
    assert identity.verify_capability(capability).fence == 3
    with pytest.raises(MeshError):
        identity.verify(capability)
    with pytest.raises(MeshError):
        identity.verify_capability(identity.mint(WHO))


def test_the_scope_ends() -> None:
    with principal_scope(WHO):
        assert current_principal() == WHO
    with pytest.raises(MeshError):
        current_principal()


def test_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_id("conv") for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert all(len(i) == len("conv_") + 26 for i in ids)


def test_a_token_carries_the_scopes_of_the_credentials(identity: InternalIdentity) -> None:
    limited = Principal("key_1", "acme", 3, scopes=frozenset({"agents:read"}))
    assert identity.verify(identity.mint(limited)).scopes == {"agents:read"}
    nothing = Principal("key_1", "acme", 3, scopes=frozenset())
    assert identity.verify(identity.mint(nothing)).scopes == frozenset()
    assert identity.verify(identity.mint(Principal("key_1", "acme", 3))).scopes is None
