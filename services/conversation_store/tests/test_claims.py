"""Requests whose effects lie outside of the store, in every storage."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh_conversation_store.domain.model import SECOND
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.claims import Claim, RequestState
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.requests import Request

from services.conversation_store.tests.support import ManualClock

DAY_SECONDS = 24 * 3600


def _claim(claim_id: str, digest: bytes = b"d", scope: str = "alice") -> Claim:
    request: Request[Any] = Request("acme", "r1", digest, lambda _: b"", scope)
    return Claim(request, claim_id, 10 * SECOND)


async def test_one_replica_carries_out_and_others_get_its_answer(replicas: list[Storage]) -> None:
    one, two = replicas
    assert await one.claim_request(_claim("a")) == (RequestState.CLAIMED, b"")
    assert await two.claim_request(_claim("b")) == (RequestState.HELD, b"")
    assert await one.claim_request(_claim("a")) == (RequestState.CLAIMED, b"")
    assert await one.finish_request(_claim("a"), b"answer")
    assert await two.claim_request(_claim("b")) == (RequestState.ANSWERED, b"answer")
    # Another caller's id is another request, another body under the same id is refused.
    assert await two.claim_request(_claim("b", scope="bob")) == (RequestState.CLAIMED, b"")
    with pytest.raises(Rejection) as refused:
        await two.claim_request(_claim("b", b"else"))
    assert refused.value.reason is Reason.REQUEST_ID_REUSED
    assert refused.value.metadata["request_id"] == "r1"


async def test_a_claim_ends_unless_it_is_renewed(storage: Storage, clock: ManualClock) -> None:
    await storage.claim_request(_claim("a"))
    clock.advance(9)
    await storage.claim_request(_claim("a"))
    clock.advance(9)
    assert await storage.claim_request(_claim("b")) == (RequestState.HELD, b"")
    clock.advance(2)
    assert await storage.claim_request(_claim("b")) == (RequestState.ABANDONED, b"")
    # Who had it before can neither answer nor forget it.
    assert not await storage.finish_request(_claim("a"), b"late")
    assert not await storage.finish_request(_claim("a"), None)
    assert await storage.finish_request(_claim("b"), b"answer")
    assert await storage.claim_request(_claim("a")) == (RequestState.ANSWERED, b"answer")


async def test_what_is_given_up_is_free_again_and_answers_last_a_day(
    storage: Storage, clock: ManualClock
) -> None:
    await storage.claim_request(_claim("a"))
    assert await storage.finish_request(_claim("a"), None)
    assert await storage.claim_request(_claim("b", b"else")) == (RequestState.CLAIMED, b"")
    await storage.finish_request(_claim("b"), b"answer")
    clock.advance(DAY_SECONDS - 1)
    assert (await storage.claim_request(_claim("c", b"else")))[0] is RequestState.ANSWERED
    clock.advance(2)
    assert await storage.claim_request(_claim("c")) == (RequestState.CLAIMED, b"")
