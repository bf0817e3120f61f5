"""Who a caller is: credentials, anonymity, and how long answers are believed."""

from __future__ import annotations

import asyncio

import pytest
from agentmesh_gateway.identity.authenticator import Authenticator
from agentmesh_gateway.identity.credentials import secret_of
from agentmesh_gateway.identity.keys import CheckedKeys, KeyCheck
from meshkit.context import Principal
from meshkit.errors import MeshError

from .clock import Clock

ALICE = Principal(subject="key_1", tenant="acme", role=2)


class Directory:
    """Keys in memory, and a count of questions."""

    def __init__(self, keys: dict[str, Principal]) -> None:
        self.keys = keys
        self.asked: list[str] = []
        self.down = False

    async def check(self, secret: str) -> KeyCheck:
        self.asked.append(secret)
        await asyncio.sleep(0)
        if self.down:
            raise MeshError.unavailable("conversation_store")
        return KeyCheck(self.keys.get(secret), keys_exist=bool(self.keys))


def authenticator(
    directory: Directory,
    clock: Clock | None = None,
    *,
    loopback_only: bool = True,
    allow_anonymous: bool = False,
) -> Authenticator:
    return Authenticator(
        CheckedKeys(directory, 5, clock or Clock()),
        allow_anonymous=allow_anonymous,
        loopback_only=loopback_only,
    )


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", "Bearer amk_1")],
        [("authorization", "bearer  amk_1 ")],
        [("x-api-key", "amk_1")],
        [("x-api-key", b"amk_1")],
    ],
)
async def test_a_good_key_speaks_for_its_tenant(metadata: list[tuple[str, str | bytes]]) -> None:
    assert await authenticator(Directory({"amk_1": ALICE})).authenticate(metadata) == ALICE


async def test_a_missing_key_and_a_wrong_one_are_told_apart_with_a_remedy() -> None:
    subject = authenticator(Directory({"amk_1": ALICE}))
    with pytest.raises(MeshError, match="an API key is needed") as missing:
        await subject.authenticate([])
    assert missing.value.reason_name == "CREDENTIALS_MISSING"
    with pytest.raises(MeshError, match="unknown, revoked or expired") as wrong:
        await subject.authenticate([("x-api-key", "amk_2")])
    assert wrong.value.reason_name == "CREDENTIALS_INVALID"
    with pytest.raises(MeshError, match="no bearer token") as scheme:
        await subject.authenticate([("authorization", "Basic dTpw")])
    assert scheme.value.reason_name == "CREDENTIALS_INVALID"


async def test_without_any_key_only_this_machine_is_anonymous() -> None:
    principal = await authenticator(Directory({})).authenticate([])
    assert (principal.tenant, principal.role) == ("default", 3)
    with pytest.raises(MeshError):
        await authenticator(Directory({}), loopback_only=False).authenticate([])


async def test_anonymity_can_be_allowed_but_a_wrong_key_stays_wrong() -> None:
    subject = authenticator(Directory({"amk_1": ALICE}), loopback_only=False, allow_anonymous=True)
    assert (await subject.authenticate([])).subject == "anonymous"
    with pytest.raises(MeshError):
        await subject.authenticate([("x-api-key", "amk_2")])


async def test_the_first_key_ends_anonymity_within_the_cache_time() -> None:
    directory, clock = Directory({}), Clock()
    subject = authenticator(directory, clock)
    await subject.authenticate([])
    directory.keys["amk_1"] = ALICE
    clock.now = 5.1
    with pytest.raises(MeshError):
        await subject.authenticate([])


async def test_answers_are_believed_for_a_while_and_a_revoked_key_not_for_longer() -> None:
    directory, clock = Directory({"amk_1": ALICE, "amk_2": ALICE}), Clock()
    subject = authenticator(directory, clock)
    for _ in range(3):
        await subject.authenticate([("x-api-key", "amk_1")])
    assert directory.asked == ["amk_1"]
    del directory.keys["amk_1"]
    clock.now = 5.1
    with pytest.raises(MeshError):
        await subject.authenticate([("x-api-key", "amk_1")])
    directory.keys["amk_1"] = ALICE
    subject.forget()
    await subject.authenticate([("x-api-key", "amk_1")])


async def test_calls_that_come_together_ask_once_and_one_that_leaves_harms_no_other() -> None:
    directory = Directory({"amk_1": ALICE})
    subject = authenticator(directory)
    calls = [asyncio.create_task(subject.authenticate([("x-api-key", "amk_1")])) for _ in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[1:] == [ALICE] * 4
    assert directory.asked == ["amk_1"]


async def test_a_directory_that_is_down_is_no_reason_to_refuse_for_long() -> None:
    directory = Directory({"amk_1": ALICE})
    subject = authenticator(directory)
    directory.down = True
    with pytest.raises(MeshError, match="conversation_store"):
        await subject.authenticate([("x-api-key", "amk_1")])
    directory.down = False
    assert await subject.authenticate([("x-api-key", "amk_1")]) == ALICE


def test_no_key_is_found_where_there_is_none() -> None:
    assert secret_of([("user-agent", "x"), ("x-api-key", " ")]) == ""
