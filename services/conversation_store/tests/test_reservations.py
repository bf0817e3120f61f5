"""What open steps hold of a budget, and what becomes of it when they fail."""

from __future__ import annotations

import grpc
from agentmesh.common.v1 import usage_pb2
from agentmesh.conversation.v1 import conversation_pb2
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore

MODEL_ERROR = conversation_pb2.RUN_END_REASON_MODEL_ERROR


def tokens(count: int) -> usage_pb2.Usage:
    """A reservation."""
    return usage_pb2.Usage(input_tokens=count, model_calls=1)


async def test_a_refusal_says_what_is_left(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation(budget=usage_pb2.Budget(max_tokens=100))
    turn = await worker.granted()
    await turn.begin(reservation=tokens(60))
    with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXHAUSTED") as refused:
        await turn.begin("writer/2", reservation=tokens(60))
    assert refused.error.metadata["remaining_tokens"] == "40"
    begun = await turn.begin("writer/2", reservation=tokens(40))
    assert begun.remaining_tokens == 0


async def test_a_claim_gives_back_what_it_did_not_consume(store: RunningStore) -> None:
    """An attempt that failed is charged that, and no more, when another one takes it over."""
    worker = await store.worker()
    conversation = await store.start_conversation(budget=usage_pb2.Budget(max_tokens=100))
    turn = await worker.granted()
    await turn.begin(attempt_id="one", reservation=tokens(90))
    assert (await turn.begin(attempt_id="one", reservation=tokens(15))).remaining_tokens == 85
    # More than was held is not to be had this way.
    assert (await turn.begin(attempt_id="one", reservation=tokens(99))).remaining_tokens == 85
    await turn.release(failed=True, detail="no answer", reason=MODEL_ERROR)
    turn = await worker.granted()
    begun = await turn.begin(attempt_id="two", take_over=True, reservation=tokens(80))
    assert begun.remaining_tokens == 5
    await turn.record(usage=tokens(30))
    await turn.commit("COMPLETED")
    shown = await store.get(conversation.conversation_id)
    assert shown.usage.input_tokens == 45
    assert shown.usage.estimated


async def test_what_a_lost_attempt_had_reserved_is_charged(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin(attempt_id="one", reservation=tokens(90))
    await worker.leave()
    turn = await (await store.worker()).granted()
    await turn.begin(attempt_id="two", take_over=True, reservation=tokens(10))
    await turn.record(usage=tokens(7))
    await turn.commit("COMPLETED")
    shown = await store.get(conversation.conversation_id)
    assert shown.usage.input_tokens == 97
