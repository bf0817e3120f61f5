"""Tokens: what they carry, how long they hold, and which are refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from meshkit.context import Principal
from meshkit.errors import MeshError
from meshkit.identity import InternalIdentity, current_principal, principal_scope
from meshkit.ids import new_id
from meshkit.mesh_secrets import LOOK_SECONDS, MeshSecrets
from meshkit.testkit import test_settings
from meshkit.transport import StartupError

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
    key = identity._secrets.keys()[0].internal
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
    assert identity.verify(identity.mint(limited)).scopes == frozenset({"agents:read"})
    nothing = Principal("key_1", "acme", 3, scopes=frozenset())
    assert identity.verify(identity.mint(nothing)).scopes == frozenset()
    assert identity.verify(identity.mint(Principal("key_1", "acme", 3))).scopes is None


def _with(folder: Path, **secrets: Any) -> InternalIdentity:
    return InternalIdentity("gateway", test_settings(folder, **secrets))


def test_a_secret_is_replaced_in_steps_without_a_token_refused(tmp_path: Path) -> None:
    old, new = "o" * 32, "n" * 32
    steps = [
        _with(tmp_path, internal_secret=old),
        _with(tmp_path, internal_secret=old, internal_secret_accepted=new),
        _with(tmp_path, internal_secret=new, internal_secret_accepted=old),
        _with(tmp_path, internal_secret=new),
    ]
    for one, other in itertools.pairwise(steps):
        # While services are restarted one after another, some are a step behind.
        assert other.verify(one.mint(WHO)).subject == one.verify(other.mint(WHO)).subject == "key_1"
        run: Any = {"tenant": "acme", "conversation_id": "conv_1", "run_id": "run_1", "fence": 3}
        for signer, reader in ((one, other), (other, one)):
            assert reader.verify_capability(signer.mint_capability(**run)).run_id == "run_1"
        assert set(one.keys_for("notices")) & set(other.keys_for("notices"))
    with pytest.raises(MeshError):
        steps[3].verify(steps[0].mint(WHO))
    with pytest.raises(MeshError):
        steps[0].verify(steps[3].mint(WHO))


def test_the_secret_is_named_in_tokens_and_not_shown(tmp_path: Path) -> None:
    identity = _with(tmp_path, internal_secret="s" * 32, internal_secret_accepted="t" * 32)
    first, second = identity._secrets.keys()
    assert jwt.get_unverified_header(identity.mint(WHO))["kid"] == first.kid != second.kid
    claims = {"iss": "x", "aud": "agentmesh-internal", "sub": "x", "tenant": "t", "role": 3}
    claims["exp"] = 2**33
    wrong = jwt.encode(claims, first.internal, algorithm="HS256", headers={"kid": second.kid})
    nameless = jwt.encode(claims, first.internal, algorithm="HS256", headers={"kid": "../0"})
    for token in (wrong, nameless):
        with pytest.raises(MeshError):
            identity.verify(token)
    assert identity.verify(jwt.encode(claims, first.internal, algorithm="HS256")).tenant == "t"


def test_a_file_of_secrets_is_followed_while_the_service_runs(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"# the first one signs\n\n{'o' * 32}\n")
    now = [0.0]
    identity = _with(tmp_path, internal_secret_file=file)
    identity._secrets = MeshSecrets(
        test_settings(tmp_path, internal_secret_file=file), lambda: now[0]
    )
    old = identity.mint(WHO)
    identity.verify(old)
    kid = identity._secrets.keys()[0].kid

    def write(*lines: str) -> None:
        file.with_name("draft").write_text("\n".join(lines))
        file.with_name("draft").replace(file)
        now[0] += LOOK_SECONDS

    write("n" * 32, "o" * 32)
    new = identity.mint(WHO)
    assert jwt.get_unverified_header(new)["kid"] != kid
    identity.verify(old)
    write("short")
    identity.verify(old)
    file.unlink()
    now[0] += LOOK_SECONDS
    identity.verify(old)
    write("n" * 32)
    identity.verify(new)
    # It was verified before, and must not live on because of that.
    with pytest.raises(MeshError):
        identity.verify(old)


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "short\n", "x" * 70_000])
def test_a_bad_file_of_secrets_does_not_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "secrets"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartupError, match="secrets"):
        _with(tmp_path, internal_secret_file=file)


@pytest.mark.parametrize(
    "secrets",
    [
        {"internal_secret": "s" * 32, "internal_secret_file": "/secrets"},
        {"internal_secret_accepted": "s" * 32},
        {"internal_secret": "s" * 32, "internal_secret_accepted": "short"},
    ],
)
def test_secrets_that_contradict_each_other_are_refused(
    tmp_path: Path, secrets: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"INTERNAL_SECRET|characters"):
        test_settings(tmp_path, **secrets)


def test_ids_of_a_child_process_are_other_ones() -> None:
    program = """
import os, time
from meshkit.ids import new_id
now = time.time_ns()
time.time_ns = lambda: now  # all of it within one millisecond
new_id("conv")
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, new_id("conv").encode())
    os._exit(0)
print(new_id("conv")[-15:], os.read(reader, 100).decode()[-15:])
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    parent, child = told.stdout.split()
    assert parent != child
