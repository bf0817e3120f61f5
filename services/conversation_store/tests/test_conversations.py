"""What people do to conversations, over gRPC."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import usage_pb2
from agentmesh.conversation.v1 import conversation_pb2
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import ACME, OTHER, acting, dense, store_pb, team

NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


async def test_a_repeated_request_is_answered_as_the_first_time(store: RunningStore) -> None:
    first = await store.start_conversation(request_id="r1")
    again = await store.start_conversation(request_id="r1")
    assert again == first
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await store.start_conversation(request_id="r1", task="something else")
    other_tenant = await store.start_conversation(OTHER, request_id="r1", task="something else")
    assert other_tenant.conversation_id != first.conversation_id
    listed = await store.conversations.ListConversations(
        store_pb.ListConversationsRequest(), metadata=acting(ACME)
    )
    assert len(listed.conversations) == 1


async def test_concurrent_repetitions_write_once(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    answers = await asyncio.gather(*(store.send(cid, "hi", request_id="m1") for _ in range(20)))
    assert len({answer.message_id for answer in answers}) == 1
    assert len(await store.log(cid)) == 4


async def test_a_request_id_means_something_to_one_caller_and_one_method(
    store: RunningStore,
) -> None:
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    pause = store_pb.PauseConversationRequest(request_id="p", conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    resume = store_pb.ResumeConversationRequest(request_id="p", conversation_id=cid)
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    # The same caller is answered as the first time, somebody else by what happens now.
    send = store_pb.SendMessageRequest(request_id="p", conversation_id=cid, content="one")
    first = await store.conversations.SendMessage(send, metadata=acting(ACME))
    bob = replace(ACME, subject="bob")
    other = await store.conversations.SendMessage(send, metadata=acting(bob))
    assert other.message_id != first.message_id
    assert await store.conversations.SendMessage(send, metadata=acting(ACME)) == first
    send.content = "two"
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await store.conversations.SendMessage(send, metadata=acting(ACME))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": ""}, "task"),
        ({"max_rounds": -1}, "max_rounds"),
        ({"definition": None}, "definition"),
        ({"timeout": {"seconds": -1}}, "timeout"),
        ({"budget": {"max_tokens": 0}}, "budget.max_tokens"),
    ],
)
async def test_bad_input_names_the_field_and_writes_nothing(
    store: RunningStore, fields: dict[str, Any], field: str
) -> None:
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field=field):
        await store.start_conversation(**fields)
    listed = await store.conversations.ListConversations(
        store_pb.ListConversationsRequest(), metadata=acting(ACME)
    )
    assert not listed.conversations


async def test_another_tenants_anything_is_not_found(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    calls = store.conversations
    requests = [
        (calls.GetConversation, store_pb.GetConversationRequest(conversation_id=cid)),
        (calls.ListEvents, store_pb.ListEventsRequest(conversation_id=cid)),
        (calls.SendMessage, store_pb.SendMessageRequest(conversation_id=cid, content="x")),
        (calls.CancelConversation, store_pb.CancelConversationRequest(conversation_id=cid)),
        (calls.PauseConversation, store_pb.PauseConversationRequest(conversation_id=cid)),
        (calls.ResumeConversation, store_pb.ResumeConversationRequest(conversation_id=cid)),
        (calls.UpdateConversation, store_pb.UpdateConversationRequest(conversation_id=cid)),
    ]
    for call, request in requests:
        with raises_rich(NOT_FOUND, "NOT_FOUND") as refused:
            await call(request, metadata=acting(OTHER))
        assert refused.error.resource == ("conversation", cid)
    listed = await calls.ListConversations(
        store_pb.ListConversationsRequest(), metadata=acting(OTHER)
    )
    assert not listed.conversations
    assert len(await store.log(cid)) == 3


async def test_a_message_after_the_end_starts_a_run_that_remembers(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation(max_rounds=7)
    turn = await worker.granted()
    await turn.take("COMPLETED")
    sent = await store.send(conversation.conversation_id, "and now?")
    assert sent.run_id != turn.run_id
    assert sent.status == conversation_pb2.CONVERSATION_STATUS_RUNNING
    again = await worker.granted()
    assert (again.run_id, again.grant.turn) == (sent.run_id, 1)
    assert again.grant.checkpoint.data == b"state"
    assert [event.message.content for event in again.grant.inputs] == ["and now?"]
    assert again.grant.run.max_rounds == 7
    assert again.grant.message_count == 3
    shown = await store.get(conversation.conversation_id)
    assert not shown.HasField("completed_at")
    assert shown.summary == "turn 1"


async def test_a_message_may_be_refused_while_a_run_is_under_way(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    with raises_rich(PRECONDITION, "RUN_UNDER_WAY"):
        await store.send(cid, strategy="DELIVERY_STRATEGY_REJECT_IF_RUNNING")
    await store.cancel(cid)
    await store.send(cid, strategy="DELIVERY_STRATEGY_REJECT_IF_RUNNING")


async def test_an_interrupt_discards_the_turn_under_way(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    await turn.record()
    await store.send(conversation.conversation_id, "stop", strategy="DELIVERY_STRATEGY_INTERRUPT")
    lost = await worker.lost()
    assert lost.reason == "interrupted"
    again = await worker.granted()
    assert again.grant.turn == 2
    assert not again.grant.steps
    assert [event.message.content for event in again.grant.inputs] == ["do it", "stop"]
    kinds = [e.WhichOneof("kind") for e in await store.log(conversation.conversation_id)]
    assert kinds[-3:] == ["message", "turn_discarded", "message"]


async def test_a_replacement_discards_the_newest_committed_turn_too(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    await (await worker.granted()).commit(
        checkpoint={"data": b"one"}, last_input_sequence=3, speaker="a"
    )
    turn = await worker.granted()
    await turn.begin()
    await turn.record(content="bad idea")
    await turn.commit(checkpoint={"data": b"two"})
    turn = await worker.granted()
    await store.send(
        conversation.conversation_id, "again", strategy="DELIVERY_STRATEGY_REPLACE_TURN"
    )
    turn = await worker.granted()
    assert turn.grant.turn == 4
    assert turn.grant.run.rounds == 1
    assert turn.grant.checkpoint.data == b"one"
    assert [event.message.content for event in turn.grant.inputs] == ["again"]
    log = await store.log(conversation.conversation_id)
    discarded = [event for event in log if event.HasField("turn_discarded")]
    assert [(event.turn, event.turn_discarded.reason) for event in discarded] == [
        (3, "interrupted"),
        (2, "replaced"),
    ]
    assert list(discarded[1].turn_discarded.message_ids) == [f"msg_{turn.run_id}_2"]


async def test_cancelling_ends_it_once(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    cancelled = await store.cancel(conversation.conversation_id)
    assert cancelled.status == conversation_pb2.CONVERSATION_STATUS_CANCELLED
    assert cancelled.run.detail == "enough"
    assert cancelled.HasField("completed_at")
    again = await store.cancel(conversation.conversation_id)
    assert again == cancelled
    log = await store.log(conversation.conversation_id)
    assert dense(log)
    assert [event.WhichOneof("kind") for event in log][-1] == "run_ended"


async def test_a_pause_lets_the_turn_end_and_holds_the_next_one(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    turn = await worker.granted()
    pause = store_pb.PauseConversationRequest(conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    response = await turn.take("RUNNABLE", want_next=True)
    assert response.status == conversation_pb2.RUN_STATUS_PAUSED
    assert not response.HasField("next")
    await store.send(cid, "meanwhile")
    await asyncio.sleep(5 * store.settings.lease_poll_seconds)
    assert worker.grants.empty()
    assert (await store.get(cid)).status == conversation_pb2.CONVERSATION_STATUS_PAUSED
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    turn = await worker.granted()
    assert turn.grant.turn == 2
    assert [event.message.content for event in turn.grant.inputs] == ["meanwhile"]


async def test_a_failed_run_resumes_as_a_new_one_from_its_last_good_turn(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    await (await worker.granted()).take("RUNNABLE")
    turn = await worker.granted()
    await turn.commit("FAILED", discard=True, detail="model gone", last_input_sequence=0)
    assert (await store.get(cid)).status == conversation_pb2.CONVERSATION_STATUS_FAILED
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    resumed = await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    assert resumed.conversation.status == conversation_pb2.CONVERSATION_STATUS_RUNNING
    again = await worker.granted()
    assert again.run_id != turn.run_id
    assert again.grant.checkpoint.data == b"state"
    assert again.grant.run.rounds == turn.grant.run.rounds == 1
    with raises_rich(PRECONDITION, "ALREADY_ENDED"):
        await again.commit("COMPLETED")
        await store.conversations.ResumeConversation(resume, metadata=acting(ACME))


async def test_lists_page_and_filter(store: RunningStore) -> None:
    made = [await store.start_conversation(agents=["writer"]) for _ in range(5)]
    made.append(await store.start_conversation(agents=["critic", "writer"]))
    await store.cancel(made[0].conversation_id)
    seen: list[str] = []
    token = ""
    while True:
        page = await store.conversations.ListConversations(
            store_pb.ListConversationsRequest(page_size=2, page_token=token),
            metadata=acting(ACME),
        )
        seen += [c.conversation_id for c in page.conversations]
        token = page.next_page_token
        if not token:
            break
    assert seen == [c.conversation_id for c in reversed(made)]

    async def found(**fields: Any) -> list[str]:
        request = store_pb.ListConversationsRequest(**fields)
        page = await store.conversations.ListConversations(request, metadata=acting(ACME))
        return [c.conversation_id for c in page.conversations]

    assert await found(agent="critic") == [made[5].conversation_id]
    assert await found(statuses=["CONVERSATION_STATUS_CANCELLED"]) == [made[0].conversation_id]
    assert len(await found(started_after=made[3].started_at)) == 3
    assert len(await found(started_before=made[3].started_at)) == 3
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="page_token"):
        await found(page_token="x")


async def test_an_update_compares_etags(store: RunningStore) -> None:
    conversation = await store.start_conversation(labels={"team": "a"})
    update = store_pb.UpdateConversationRequest(
        conversation_id=conversation.conversation_id,
        set_labels=True,
        labels={"team": "b"},
        max_rounds=3,
        budget=usage_pb2.Budget(max_tokens=5),
        etag=conversation.etag,
    )
    changed = await store.conversations.UpdateConversation(update, metadata=acting(ACME))
    assert dict(changed.conversation.labels) == {"team": "b"}
    assert changed.conversation.run.max_rounds == 3
    assert changed.conversation.run.budget.max_tokens == 5
    with raises_rich(grpc.StatusCode.ABORTED, "ETAG_MISMATCH") as refused:
        await store.conversations.UpdateConversation(update, metadata=acting(ACME))
    assert refused.error.metadata["current_etag"] == changed.conversation.etag


async def test_a_limit_that_is_raised_holds_for_the_turn_under_way(store: RunningStore) -> None:
    """The worker ends the run by the limit that it was granted the turn under."""
    worker = await store.worker()
    cid = (await store.start_conversation(max_rounds=1)).conversation_id
    turn = await worker.granted()
    update = store_pb.UpdateConversationRequest(conversation_id=cid, max_rounds=2)
    await store.conversations.UpdateConversation(update, metadata=acting(ACME))
    max_rounds = conversation_pb2.RUN_END_REASON_MAX_ROUNDS
    response = await turn.commit("COMPLETED", end_reason=max_rounds)
    assert response.status == conversation_pb2.RUN_STATUS_RUNNABLE
    last = await worker.granted()
    assert last.run_id == turn.run_id
    response = await last.commit("COMPLETED", end_reason=max_rounds)
    assert response.status == conversation_pb2.RUN_STATUS_COMPLETED


async def test_each_run_has_the_trace_of_the_call_that_began_it(store: RunningStore) -> None:
    def traced(digit: str) -> Any:
        """A call's metadata, in a trace of its own."""
        return (*acting(ACME), ("traceparent", f"00-{digit * 32}-b7ad6b7169203331-01"))

    def say(content: str) -> store_pb.SendMessageRequest:
        return store_pb.SendMessageRequest(conversation_id=cid, content=content)

    request = store_pb.StartConversationRequest(task="t", definition=team(), max_rounds=1)
    started = await store.conversations.StartConversation(request, metadata=traced("a"))
    cid = started.conversation.conversation_id
    worker = await store.worker()
    first = await worker.granted()
    # What the run leaves unread is taken up by a successor of the same trace.
    await store.conversations.SendMessage(say("unread"), metadata=traced("b"))
    await first.commit()
    successor = await worker.granted()
    await successor.commit()
    # A message after the end begins a run, and so does going on after a failure.
    await store.conversations.SendMessage(say("more"), metadata=traced("c"))
    later = await worker.granted()
    await later.commit("FAILED", detail="no")
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    await store.conversations.ResumeConversation(resume, metadata=traced("d"))
    resumed = await worker.granted()
    turns = [first, successor, later, resumed]
    assert len({turn.run_id for turn in turns}) == 4
    traces = [turn.grant.run.traceparent.split("-")[1] for turn in turns]
    assert traces == ["a" * 32, "a" * 32, "c" * 32, "d" * 32]
    begun = [event for event in await store.log(cid) if event.HasField("run_started")]
    assert [(event.run_id, event.run_started.traceparent) for event in begun] == [
        (turn.run_id, turn.grant.run.traceparent) for turn in turns
    ]


async def test_a_run_that_goes_on_waiting_after_a_pause_is_told_of(store: RunningStore) -> None:
    worker = await store.worker()
    cid = (await store.start_conversation()).conversation_id
    waiting = conversation_pb2.WAIT_KIND_INPUT
    await (await worker.granted()).take("WAITING", waiting_for=waiting, detail="your turn")
    pause = store_pb.PauseConversationRequest(conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    shown = (await store.get(cid)).run
    told = (await store.log(cid))[-1].run_status_changed
    assert (told.status, told.waiting_for, told.detail) == (
        conversation_pb2.RUN_STATUS_WAITING,
        waiting,
        "your turn",
    )
    assert (shown.status, shown.waiting_for) == (told.status, told.waiting_for)
