"""Repetitions that wait: how many ask, how long, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from agentmesh_gateway.idempotency.waiting import RequestKey, Waiters
from meshkit.errors import MeshError

KEY = RequestKey("acme", "alice", "UploadBlob", "r1")
OTHER = KEY._replace(tenant="other")


class Held:
    """A request that somebody else has, until it is answered."""

    def __init__(self) -> None:
        self.asked = 0
        self.at_once = self.most_at_once = 0
        self.answer: str | None = None
        self.asked_twice = asyncio.Event()

    async def ask(self) -> str | None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.asked >= 2:
            self.asked_twice.set()
        return self.answer


def waiting(
    waiters: Waiters, held: Held, count: int, key: RequestKey = KEY
) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(waiters.wait(key, held.ask)) for _ in range(count)]


async def test_of_all_who_wait_one_asks() -> None:
    held, waiters = Held(), Waiters()
    tasks = waiting(waiters, held, 50)
    await held.asked_twice.wait()
    assert held.asked == 2
    held.answer = "done"
    asked = held.asked
    assert await asyncio.gather(*tasks) == ["done"] * 50
    assert held.most_at_once == 1
    assert held.asked - asked <= 51, "once each, when there was something to hear"
    assert not waiters.under_way, "nothing is left of them"


async def test_whoever_leaves_passes_the_turn_on() -> None:
    held, waiters = Held(), Waiters()
    first, second, third = waiting(waiters, held, 3)
    await asyncio.sleep(0)
    second.cancel()
    await held.asked_twice.wait()
    first.cancel()
    held.answer = "done"
    assert await third == "done"
    for left in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await left
    assert not waiters.under_way


async def test_patience_ends_and_says_which_request_it_was() -> None:
    held, waiters = Held(), Waiters(patience_seconds=0.2)
    outcomes = await asyncio.gather(*waiting(waiters, held, 3), return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, MeshError)
        assert outcome.code is grpc.StatusCode.UNAVAILABLE
        assert outcome.reason_name == "REQUEST_UNDER_WAY"
        assert outcome.metadata == {"request_id": "r1"}
        assert outcome.retry_after
    assert not waiters.under_way


async def test_a_tenant_may_have_so_many_waiting() -> None:
    held, waiters = Held(), Waiters(most=2)
    tasks = waiting(waiters, held, 2)
    await asyncio.sleep(0)
    with pytest.raises(MeshError) as refused:
        await waiters.wait(KEY._replace(request_id="r2"), held.ask)
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.retry_after
    held.answer = "done"
    assert await waiters.wait(OTHER, held.ask) == "done"
    assert await asyncio.gather(*tasks) == ["done", "done"]
    assert await waiters.wait(KEY, held.ask) == "done"


async def test_a_failure_to_ask_is_one_waiters_own() -> None:
    held, waiters = Held(), Waiters()

    async def fail() -> str | None:
        raise MeshError.unavailable("conversation_store")

    failing: Callable[[], Awaitable[str | None]] = fail
    broken = asyncio.create_task(waiters.wait(KEY, failing))
    (patient,) = waiting(waiters, held, 1)
    with pytest.raises(MeshError, match="conversation_store"):
        await broken
    held.answer = "done"
    assert await patient == "done"
