"""Guessing credentials ends soon, however many guess at once, and so does calling without any;
guests of the same address are not locked out by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from agentmesh_gateway.limits.credential_guard import CredentialGuard
from meshkit.caller_address import enter_caller_address
from meshkit.errors import MeshError
from meshkit.sites import site_of

GUEST, OTHER = "10.0.0.1", "10.0.0.2"


async def good() -> str:
    return "OK"


async def bad() -> str:
    raise MeshError.credentials_invalid("unknown")


async def out_of_order() -> str:
    raise MeshError.unavailable("conversation_store")


class Asked:
    """Judges nobody before it is told to; counts whom it was asked about."""

    def __init__(self) -> None:
        self.count = 0
        self.may_answer = asyncio.Event()

    def then(self, answer: Callable[[], Awaitable[str]]) -> Callable[[], Awaitable[str]]:
        async def judge() -> str:
            self.count += 1
            await self.may_answer.wait()
            return await answer()

        return judge


async def show(
    guard: CredentialGuard,
    secret: str,
    judge: Callable[[], Awaitable[str]],
    address: str = GUEST,
) -> str:
    """What comes of showing a secret."""
    enter_caller_address(address)
    try:
        return await guard.judged(secret, judge)
    except MeshError as error:
        return error.reason_name


async def settled(tasks: list[asyncio.Task[str]]) -> None:
    """Lets all of them go as far as they get."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert tasks


def attempts(
    guard: CredentialGuard, judge: Callable[[], Awaitable[str]], *secrets: str
) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(show(guard, secret, judge)) for secret in secrets]


async def test_refusals_of_one_address_are_bounded() -> None:
    guard = CredentialGuard(3, 0)
    said = [await show(guard, f"guess-{n}", bad) for n in range(5)]
    assert said == ["CREDENTIALS_INVALID"] * 3 + ["RATE_LIMITED"] * 2
    # Not even the right one is found by guessing on.
    assert await show(guard, "new", good) == "RATE_LIMITED"
    assert await show(guard, "guess", bad, OTHER) == "CREDENTIALS_INVALID"


async def test_guesses_at_the_same_time_are_no_more() -> None:
    guard, asked = CredentialGuard(3, 0), Asked()
    tasks = attempts(guard, asked.then(bad), *(f"guess-{n}" for n in range(20)))
    await settled(tasks)
    assert asked.count == 3
    asked.may_answer.set()
    said = sorted(await asyncio.gather(*tasks))
    assert said == ["CREDENTIALS_INVALID"] * 3 + ["RATE_LIMITED"] * 17
    assert asked.count == 3


async def test_many_guests_of_one_address_may_come_at_once() -> None:
    guard, asked = CredentialGuard(3, 0), Asked()
    tasks = attempts(guard, asked.then(good), *(f"guest-{n}" for n in range(20)))
    await settled(tasks)
    assert asked.count == 3
    asked.may_answer.set()
    assert await asyncio.gather(*tasks) == ["OK"] * 20


async def test_who_leaves_when_it_is_their_turn_takes_nobodys() -> None:
    guard, asked, never = CredentialGuard(2, 0), Asked(), Asked()
    stays_under_way = attempts(guard, never.then(good), "slow")
    waiting: list[asyncio.Task[str]] = []

    async def the_next_one_leaves() -> str:
        asyncio.get_running_loop().call_soon(waiting[0].cancel)
        return "OK"

    first = attempts(guard, asked.then(the_next_one_leaves), "first")
    waiting += attempts(guard, good, "leaves", "stays")
    await settled(waiting)
    asked.may_answer.set()
    async with asyncio.timeout(10):
        assert await first[0] == await waiting[1] == "OK"
    never.may_answer.set()
    assert await stays_under_way[0] == "OK"
    assert waiting[0].cancelled()


async def test_who_was_known_to_be_good_goes_on() -> None:
    guard = CredentialGuard(3, 0)
    assert await show(guard, "alice", good) == "OK"
    for n in range(5):
        await show(guard, f"guess-{n}", bad)
    assert await show(guard, "alice", good) == "OK"
    assert await show(guard, "alice", bad) == "CREDENTIALS_INVALID"  # revoked
    assert await show(guard, "alice", bad) == "RATE_LIMITED"


async def test_other_failures_are_no_guesses_and_the_refusal_says_how_long() -> None:
    guard = CredentialGuard(1, 0)
    for _ in range(3):
        assert await show(guard, "a", out_of_order) == "SERVICE_UNAVAILABLE"
    await show(guard, "guess", bad)
    with pytest.raises(MeshError, match="1 refused credentials a minute") as caught:
        await guard.judged("b", good)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 60
    assert caught.value.quotas[0].subject == f"address:{GUEST}"


async def test_calls_without_credentials_have_a_rate_of_their_own() -> None:
    guard = CredentialGuard(1, 2)
    said = [await show(guard, "", bad) for _ in range(6)]
    assert said == ["CREDENTIALS_INVALID"] * 4 + ["RATE_LIMITED"] * 2
    assert await show(guard, "", bad, OTHER) == "CREDENTIALS_INVALID"
    assert await show(guard, "alice", good) == "OK"


async def test_who_is_known_without_credentials_uses_none_of_it_up() -> None:
    guard = CredentialGuard(0, 1)
    assert {await show(guard, "", good) for _ in range(50)} == {"OK"}


async def test_no_limit() -> None:
    guard = CredentialGuard(0, 0)
    said = {await show(guard, secret, bad) for n in range(99) for secret in (f"{n}", "")}
    assert said == {"CREDENTIALS_INVALID"}


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", "unknown"),
        ("unix", "unix"),
        ("odd:name", "odd:name"),
    ],
)
def test_what_counts_as_one_caller(address: str, site: str) -> None:
    assert site_of(address) == site
