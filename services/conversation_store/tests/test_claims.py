"""Requests whose effects lie outside of the store, in every storage."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh_conversation_store.domain.model import SECOND
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.claims import (
    Claim,
    GivenUp,
    RequestState,
    Standing,
)
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.requests import Request

from services.conversation_store.tests.support import ManualClock

DAY_SECONDS = 24 * 3600
CLAIMED = Standing(RequestState.CLAIMED)
HELD = Standing(RequestState.HELD)
ANSWERED = Standing(RequestState.ANSWERED, b"answer")


def _claim(claim_id: str, digest: bytes = b"d", scope: str = "alice") -> Claim:
    request: Request[Any] = Request("acme", "r1", digest, lambda _: b"", scope)
    return Claim(request, claim_id, 10 * SECOND)


async def test_one_replica_carries_out_and_others_get_its_answer(replicas: list[Storage]) -> None:
    one, two = replicas
    assert await one.claim_request(_claim("a")) == CLAIMED
    assert await two.claim_request(_claim("b")) == HELD
    assert await one.claim_request(_claim("a")) == CLAIMED
    assert await one.finish_request(_claim("a"), b"answer")
    assert await two.claim_request(_claim("b")) == ANSWERED
    # Another caller's id is another request, another body under the same id is refused.
    assert await two.claim_request(_claim("b", scope="bob")) == CLAIMED
    with pytest.raises(Rejection) as refused:
        await two.claim_request(_claim("b", b"else"))
    assert refused.value.reason is Reason.REQUEST_ID_REUSED
    assert refused.value.metadata["request_id"] == "r1"


async def test_a_claim_ends_unless_it_is_renewed(storage: Storage, clock: ManualClock) -> None:
    await storage.claim_request(_claim("a"))
    assert await storage.renew_request(_claim("a"), b"note")
    clock.advance(9)
    assert await storage.renew_request(_claim("a"), b"")
    clock.advance(9)
    assert await storage.claim_request(_claim("b")) == HELD
    clock.advance(2)
    assert await storage.claim_request(_claim("b")) == Standing(
        RequestState.ABANDONED, note=b"note"
    )
    # Who had it before can neither hold, answer nor forget it.
    assert not await storage.renew_request(_claim("a"), b"")
    assert not await storage.finish_request(_claim("a"), b"late")
    assert not await storage.finish_request(_claim("a"), GivenUp.NOTHING_DONE)
    assert not await storage.finish_request(_claim("a"), GivenUp.UNKNOWN)
    assert await storage.finish_request(_claim("b"), b"answer")
    assert await storage.claim_request(_claim("a")) == ANSWERED


async def test_a_claim_under_which_nothing_began_is_taken_over_as_if_new(
    storage: Storage, clock: ManualClock
) -> None:
    await storage.claim_request(_claim("a"))
    clock.advance(11)
    assert await storage.claim_request(_claim("b")) == CLAIMED
    assert not await storage.renew_request(_claim("a"), b"late"), "it must not begin any more"


async def test_that_somebody_began_is_not_forgotten_until_there_is_an_answer(
    storage: Storage,
) -> None:
    begun = Standing(RequestState.ABANDONED, note=b"first")
    await storage.claim_request(_claim("a"))
    await storage.renew_request(_claim("a"), b"first")
    assert await storage.finish_request(_claim("a"), GivenUp.UNKNOWN)
    assert not await storage.renew_request(_claim("a"), b""), "late renewals bring nothing back"
    for claim_id in ("b", "c"):
        assert await storage.claim_request(_claim(claim_id)) == begun, "at once"
        # The same claim once more, as after a lost answer, hears the same.
        assert await storage.claim_request(_claim(claim_id)) == begun
        assert await storage.renew_request(_claim(claim_id), b"second")
        assert await storage.finish_request(_claim(claim_id), GivenUp.NOTHING_DONE)
    assert await storage.claim_request(_claim("d")) == begun
    assert await storage.finish_request(_claim("d"), b"answer")
    assert await storage.claim_request(_claim("e")) == ANSWERED


async def test_what_was_finished_may_be_finished_again(storage: Storage) -> None:
    """As a client does whose answer was lost."""
    await storage.claim_request(_claim("a"))
    for end in (GivenUp.NOTHING_DONE, GivenUp.NOTHING_DONE):
        assert await storage.finish_request(_claim("a"), end)
    assert not await storage.renew_request(_claim("a"), b"note"), "nothing is brought back"
    assert not await storage.finish_request(_claim("a"), b"answer")
    await storage.claim_request(_claim("b"))
    for _ in range(2):
        assert await storage.finish_request(_claim("b"), b"answer")
    assert not await storage.finish_request(_claim("b"), b"another")


async def test_only_answers_are_recalled(storage: Storage, clock: ManualClock) -> None:
    await storage.claim_request(_claim("a"))
    assert await storage.recall(_claim("a").request) is None
    await storage.finish_request(_claim("a"), b"answer")
    assert await storage.recall(_claim("a").request) == b"answer"
    assert await storage.recall(_claim("a", scope="bob").request) is None
    with pytest.raises(Rejection):
        await storage.recall(_claim("a", b"else").request)
    clock.advance(DAY_SECONDS + 1)
    assert await storage.recall(_claim("a").request) is None


async def test_what_is_given_up_is_free_again_and_answers_last_a_day(
    storage: Storage, clock: ManualClock
) -> None:
    await storage.claim_request(_claim("a"))
    await storage.renew_request(_claim("a"), b"note")
    assert await storage.finish_request(_claim("a"), GivenUp.NOTHING_DONE)
    assert await storage.claim_request(_claim("b", b"else")) == CLAIMED
    await storage.renew_request(_claim("b", b"else"), b"note")
    await storage.finish_request(_claim("b"), b"answer")
    clock.advance(DAY_SECONDS - 1)
    assert await storage.claim_request(_claim("c", b"else")) == ANSWERED
    clock.advance(2)
    assert await storage.claim_request(_claim("c")) == CLAIMED
    clock.advance(11)
    assert await storage.claim_request(_claim("d")) == CLAIMED, "nor is an old note left"
