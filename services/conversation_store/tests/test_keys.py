"""Keys that are limited, rotated and used: of storages whose clock is told, and over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation_store.v1 import identity_service_pb2 as pb
from agentmesh_conversation_store.domain.keys import ApiKey, Grantor
from agentmesh_conversation_store.domain.model import SECOND
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.identity import ApiKeys, NewKey
from agentmesh_conversation_store.key_uses import KeyUses
from agentmesh_conversation_store.storage.interface import Storage
from google.protobuf.duration_pb2 import Duration
from meshkit.context import Principal
from meshkit.identity import SYSTEM
from meshkit.roles import Role
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import ACME, OTHER, ManualClock, acting

ROOT = Grantor("root", Role.ADMIN)
ADMIN = options_pb2.ROLE_ADMIN


async def _made(keys: ApiKeys, seed: str = "1", **fields: Any) -> tuple[ApiKey, str]:
    made = await keys.create(NewKey("acme", Role.OPERATOR, **fields), ROOT, seed)
    assert isinstance(made, ApiKey)
    return made, keys.secret("acme", made.key_id, made.created_at, seed)


async def _rotated(keys: ApiKeys, key: ApiKey, overlap: float, seed: str) -> str:
    rotated = await keys.rotate("acme", key.key_id, round(overlap * SECOND), ROOT, seed)
    assert isinstance(rotated, ApiKey)
    assert rotated.rotated_at is not None
    return keys.secret("acme", key.key_id, rotated.rotated_at, seed)


async def _good(keys: ApiKeys, *secrets: str) -> list[bool]:
    good = []
    for secret in secrets:
        try:
            await keys.authenticate(secret)
            good.append(True)
        except Rejection:
            good.append(False)
    return good


async def test_both_secrets_are_good_until_the_overlap_ends(
    storage: Storage, clock: ManualClock
) -> None:
    keys = ApiKeys(storage, b"pepper")
    key, old = await _made(keys)
    new = await _rotated(keys, key, 60, "2")
    assert old != new
    clock.advance(59)
    assert await _good(keys, old, new) == [True, True]
    clock.advance(2)
    assert await _good(keys, old, new) == [False, True]


async def test_a_secret_can_end_at_once_and_the_third_ends_the_first(
    storage: Storage, clock: ManualClock
) -> None:
    keys = ApiKeys(storage, b"pepper")
    key, first = await _made(keys)
    second = await _rotated(keys, key, 0, "2")
    assert await _good(keys, first, second) == [False, True]
    clock.advance(1)
    third = await _rotated(keys, key, 60, "3")
    clock.advance(1)
    fourth = await _rotated(keys, key, 60, "4")
    assert await _good(keys, second, third, fourth) == [False, True, True]
    await storage.revoke_key("acme", key.key_id)
    assert await _good(keys, third, fourth) == [False, False]
    with pytest.raises(Rejection, match="is revoked"):
        await _rotated(keys, key, 60, "5")


async def test_an_expired_key_is_not_rotated_back_to_life(
    storage: Storage, clock: ManualClock
) -> None:
    keys = ApiKeys(storage, b"pepper")
    key, _ = await _made(keys, ttl=60 * SECOND)
    secret = await _rotated(keys, key, 3600, "2")
    clock.advance(61)
    assert await _good(keys, secret) == [False]
    with pytest.raises(Rejection, match="is expired"):
        await _rotated(keys, key, 60, "3")


async def test_the_last_use_is_written_in_batches_and_once_a_minute(
    storage: Storage, clock: ManualClock
) -> None:
    uses = KeyUses(storage, flush_seconds=0.01)
    keys = ApiKeys(storage, b"pepper", uses.note)
    key, secret = await _made(keys)
    other, _ = await _made(keys, "2")

    async def last_used(key_id: str) -> int | None:
        return next(
            k.last_used_at for k in await storage.keys("acme", None, 9) if k.key_id == key_id
        )

    await uses.start()
    first = clock.now
    await keys.authenticate(secret)
    async with asyncio.timeout(30):
        while await last_used(key.key_id) != first:
            await asyncio.sleep(0.01)
    clock.advance(30)
    await keys.authenticate(secret)
    clock.advance(31)
    await keys.authenticate(secret)
    await uses.stop()
    assert await last_used(key.key_id) == clock.now == first + 61 * SECOND
    assert await last_used(other.key_id) is None


async def test_uses_less_than_a_minute_apart_are_not_written(
    storage: Storage, clock: ManualClock
) -> None:
    uses = KeyUses(storage)
    keys = ApiKeys(storage, b"pepper", uses.note)
    _, secret = await _made(keys)
    first = clock.now
    await keys.authenticate(secret)
    await uses.stop()
    clock.advance(59)
    await keys.authenticate(secret)
    await uses.stop()
    # Another replica still believes that the key was never used.
    late = KeyUses(storage)
    late.note((await storage.keys("acme", None, 1))[0], clock.now)
    await late.stop()
    assert (await storage.keys("acme", None, 1))[0].last_used_at == first


@pytest.mark.parametrize(
    ("by", "role", "scopes", "allowed"),
    [
        (Grantor("op", Role.OPERATOR), Role.ADMIN, (), False),
        (Grantor("op", Role.OPERATOR), Role.OPERATOR, (), True),
        (Grantor("a", Role.ADMIN, frozenset({"keys:write"})), Role.VIEWER, (), False),
        (Grantor("a", Role.ADMIN, frozenset({"keys:write"})), Role.VIEWER, ("a:read",), False),
        (Grantor("a", Role.ADMIN, frozenset({"a:read"})), Role.ADMIN, ("a:read",), True),
    ],
)
async def test_nobody_makes_or_takes_over_a_key_that_can_do_more(
    storage: Storage, by: Grantor, role: Role, scopes: tuple[str, ...], allowed: bool
) -> None:
    keys = ApiKeys(storage, b"pepper")
    wanted = NewKey("acme", role, scopes=scopes)
    theirs = await keys.create(wanted, ROOT, "1")
    assert isinstance(theirs, ApiKey)
    create, rotate = (
        keys.create(wanted, by, "2"),
        keys.rotate("acme", theirs.key_id, 0, by, "3"),
    )
    for attempt in (create, rotate):
        if allowed:
            await attempt
            continue
        with pytest.raises(Rejection) as refused:
            await attempt
        assert refused.value.reason is Reason.GRANT_TOO_WIDE


async def test_a_limited_key_over_grpc(store: RunningStore) -> None:
    create = pb.CreateKeyRequest(role=ADMIN, scopes=["keys:write", "agents:read"])
    made = await store.identity.CreateKey(create, metadata=acting(ACME))
    assert made.key.created_by == ACME.subject
    check = pb.AuthenticateKeyRequest(secret=made.secret)
    found = await store.identity.AuthenticateKey(check, metadata=acting(SYSTEM))
    assert list(found.key.scopes) == ["agents:read", "keys:write"]
    limited = Principal("key_1", "acme", ADMIN, scopes=frozenset({"keys:write"}))
    rotate = pb.RotateKeyRequest(key_id=made.key.key_id)
    for attempt, subject in (
        (store.identity.CreateKey, create),
        (store.identity.RotateKey, rotate),
    ):
        with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "GRANT_TOO_WIDE") as refused:
            await attempt(subject, metadata=acting(limited))
        assert refused.error.metadata == {"scope": "agents:read"}


async def test_a_repeated_rotation_gives_the_same_secret(store: RunningStore) -> None:
    create = pb.CreateKeyRequest(role=ADMIN, request_id="k1")
    made = await store.identity.CreateKey(create, metadata=acting(ACME))
    rotate = pb.RotateKeyRequest(
        key_id=made.key.key_id, overlap=Duration(seconds=60), request_id="k2"
    )
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await store.identity.RotateKey(rotate, metadata=acting(OTHER))
    rotated = await store.identity.RotateKey(rotate, metadata=acting(ACME))
    assert await store.identity.RotateKey(rotate, metadata=acting(ACME)) == rotated
    assert rotated.secret != made.secret
    overlap = rotated.key.previous_secret_expires_at.seconds - rotated.key.rotated_at.seconds
    assert overlap == 60
    for secret in (made.secret, rotated.secret):
        check = pb.AuthenticateKeyRequest(secret=secret)
        found = await store.identity.AuthenticateKey(check, metadata=acting(SYSTEM))
        assert found.key.key_id == made.key.key_id
    rotate.overlap.seconds = 61
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await store.identity.RotateKey(rotate, metadata=acting(ACME))
    for overlap_seconds in (-1, 2_592_001):
        bad = pb.RotateKeyRequest(key_id="key_1", overlap=Duration(seconds=overlap_seconds))
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="overlap"):
            await store.identity.RotateKey(bad, metadata=acting(ACME))
