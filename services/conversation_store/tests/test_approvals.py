"""What waits for a person, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2
from agentmesh.conversation_store.v1 import approval_store_service_pb2 as approval_pb
from agentmesh.conversation_store.v1 import approval_store_service_pb2_grpc as approval_pb_grpc
from google.protobuf.timestamp_pb2 import Timestamp
from meshkit.identity import Principal
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import LeasedWorker, RunningStore, Turn
from services.conversation_store.tests.support import ACME, OTHER, acting, dense, fresh, store_pb

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
OPERATOR = Principal("olga", "acme", 2)
CALL = message_pb2.ToolCallPart(tool_call_id="call_1", tool="rm", arguments_json='{"path": "/"}')
LATER = Timestamp(seconds=4_000_000_000)
LONG_AGO = Timestamp(seconds=1_000_000_000)


def asks(approval_id: str = "", **fields: Any) -> event_pb2.Event:
    """An agent asks a person."""
    values: dict[str, Any] = {
        "approval_id": approval_id or fresh("appr"),
        "prompt": "delete everything?",
        "tool_call": CALL,
        "expires_at": LATER,
    }
    requested = event_pb2.ApprovalRequested(**(values | fields))
    return event_pb2.Event(agent="writer", approval_requested=requested)


def question(approval_id: str = "", **fields: Any) -> event_pb2.Event:
    """An agent asks for words."""
    return asks(approval_id, prompt="which colour?", tool_call=None, **fields)


async def waiting(
    store: RunningStore, worker: LeasedWorker, events: Sequence[event_pb2.Event], **fields: Any
) -> tuple[Turn, list[str]]:
    """A run that waits for a person after its first turn, and what it asks for."""
    await store.start_conversation(human_input=True)
    turn = await worker.granted()
    await wait(turn, events, **fields)
    return turn, [event.approval_requested.approval_id for event in events]


async def wait(turn: Turn, events: Sequence[event_pb2.Event], **fields: Any) -> Any:
    """Commits a turn that asks."""
    return await turn.commit(
        "WAITING", waiting_for=conversation_pb2.WAIT_KIND_APPROVAL, events=events, **fields
    )


def _stub(store: RunningStore) -> Any:
    return approval_pb_grpc.ApprovalStoreServiceStub(store.channel)


async def resolve(
    store: RunningStore,
    approval_id: str,
    status: str = "APPROVED",
    principal: Principal = ACME,
    **fields: Any,
) -> approval_pb.Approval:
    request = approval_pb.ResolveApprovalRequest(
        approval_id=approval_id,
        status=event_pb2.ApprovalStatus.Value(f"APPROVAL_STATUS_{status}"),
        **fields,
    )
    response = await _stub(store).ResolveApproval(request, metadata=acting(principal))
    approval: approval_pb.Approval = response.approval
    return approval


async def get(
    store: RunningStore, approval_id: str, principal: Principal = ACME
) -> approval_pb.Approval:
    request = approval_pb.GetApprovalRequest(approval_id=approval_id)
    response = await _stub(store).GetApproval(request, metadata=acting(principal))
    approval: approval_pb.Approval = response.approval
    return approval


async def ids(
    store: RunningStore, principal: Principal = ACME, *, token: str = "", **fields: Any
) -> list[str]:
    """The approvals of a list, page after page."""
    found: list[str] = []
    while True:
        request = approval_pb.ListApprovalsRequest(page_token=token, **fields)
        page = await _stub(store).ListApprovals(request, metadata=acting(principal))
        assert not fields.get("page_size") or len(page.approvals) <= fields["page_size"]
        found += [approval.approval_id for approval in page.approvals]
        token = page.next_page_token
        if not token:
            return found


async def resolutions(store: RunningStore, conversation_id: str) -> list[tuple[str, str]]:
    log = await store.log(conversation_id)
    assert dense(log)
    return [
        (
            event.approval_resolved.approval_id,
            event_pb2.ApprovalStatus.Name(event.approval_resolved.status)[16:],
        )
        for event in log
        if event.HasField("approval_resolved")
    ]


async def test_a_decision_is_an_input_and_lets_the_run_go_on(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await waiting(store, worker, [asks()], wake_at=LATER)
    cid = turn.grant.run.conversation_id
    shown = await store.get(cid)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_WAITING
    assert shown.run.waiting_for == conversation_pb2.WAIT_KIND_APPROVAL
    asked = await get(store, approval_id)
    assert asked.status == event_pb2.APPROVAL_STATUS_PENDING
    assert (asked.agent, asked.prompt, asked.tool_call) == ("writer", "delete everything?", CALL)
    assert (asked.conversation_id, asked.run_id) == (cid, turn.run_id)
    assert asked.expires_at == LATER
    assert not asked.HasField("resolved_at")
    resolved = await resolve(store, approval_id, comment="go")
    assert resolved.status == event_pb2.APPROVAL_STATUS_APPROVED
    assert (resolved.principal, resolved.comment) == ("alice", "go")
    assert resolved.HasField("resolved_at")
    assert await get(store, approval_id) == resolved
    again = await worker.granted()
    (answer,) = again.grant.inputs
    assert answer.approval_resolved.approval_id == approval_id
    assert answer.approval_resolved.status == event_pb2.APPROVAL_STATUS_APPROVED
    assert answer.approval_resolved.principal == "alice"
    assert (answer.agent, answer.origin) == ("writer", event_pb2.EVENT_ORIGIN_API)
    log = await store.log(cid)
    assert log[asked.requested_sequence - 1].HasField("approval_requested")
    assert dense(log)


async def test_it_can_be_asked_with_a_step_and_answered_before_the_commit(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    await turn.record(events=[question("appr_early")])
    await resolve(store, "appr_early", "ANSWERED", comment="blue")
    committed = await wait(turn, [])
    assert committed.status == conversation_pb2.RUN_STATUS_RUNNABLE
    (answer,) = (await worker.granted()).grant.inputs
    assert answer.approval_resolved.comment == "blue"


async def test_a_run_goes_on_when_nothing_is_pending_any_more(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (one, two) = await waiting(store, worker, [asks(), question()])
    await resolve(store, one, "REJECTED")
    shown = await store.get(turn.grant.run.conversation_id)
    assert shown.run.status == conversation_pb2.RUN_STATUS_WAITING
    await resolve(store, two, "ANSWERED", comment="red")
    inputs = (await worker.granted()).grant.inputs
    assert [event.approval_resolved.approval_id for event in inputs] == [one, two]


async def test_the_same_decision_is_harmless_and_another_one_refused(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await waiting(store, worker, [asks()])
    first = await resolve(store, approval_id, comment="go")
    assert await resolve(store, approval_id, comment="go", principal=OPERATOR) == first
    others: list[tuple[str, dict[str, Any]]] = [
        ("REJECTED", {"comment": "go"}),
        ("APPROVED", {"comment": "another"}),
        ("EDITED", {"edited_arguments_json": "{}"}),
    ]
    for status, fields in others:
        with raises_rich(PRECONDITION, "ALREADY_DECIDED") as refused:
            await resolve(store, approval_id, status, **fields)
        assert refused.error.metadata["status"] == "approved"
    found = await resolutions(store, turn.grant.run.conversation_id)
    assert found == [(approval_id, "APPROVED")]


async def test_a_repeated_request_answers_as_the_first_time(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await waiting(store, worker, [asks()])
    answers = await asyncio.gather(
        *(resolve(store, approval_id, request_id="once") for _ in range(5))
    )
    assert all(answer == answers[0] for answer in answers)
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await resolve(store, approval_id, "REJECTED", request_id="once")
    assert len(await resolutions(store, turn.grant.run.conversation_id)) == 1


async def test_one_of_many_rivals_decides(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await waiting(store, worker, [asks()])
    outcomes = await asyncio.gather(
        *(resolve(store, approval_id, comment=str(n)) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, approval_pb.Approval) for outcome in outcomes) == 1
    assert len(await resolutions(store, turn.grant.run.conversation_id)) == 1


async def test_a_role_below_the_asked_one_may_not_decide(store: RunningStore) -> None:
    worker = await store.worker()
    _, (approval_id, other) = await waiting(store, worker, [asks(role="admin"), asks()])
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW") as refused:
        await resolve(store, approval_id, principal=OPERATOR)
    assert refused.error.metadata == {"required_role": "admin", "role": "operator"}
    assert (await get(store, approval_id)).status == event_pb2.APPROVAL_STATUS_PENDING
    await resolve(store, other, principal=OPERATOR)
    await resolve(store, approval_id, principal=ACME)


async def test_edited_arguments_are_a_json_object_for_a_call(store: RunningStore) -> None:
    worker = await store.worker()
    _, (call, words) = await waiting(store, worker, [asks(), question()])
    bad: list[tuple[str, dict[str, Any], str]] = [
        ("EDITED", {"edited_arguments_json": "[1]"}, "edited_arguments_json"),
        ("EDITED", {"edited_arguments_json": "{"}, "edited_arguments_json"),
        ("EDITED", {}, "edited_arguments_json"),
        ("APPROVED", {"edited_arguments_json": "{}"}, "edited_arguments_json"),
        ("ANSWERED", {"comment": "blue"}, "status"),
    ]
    for status, fields, field in bad:
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refused:
            await resolve(store, call, status, **fields)
        assert [violation.field for violation in refused.error.violations] == [field]
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await resolve(store, words, "EDITED", edited_arguments_json="{}")
    edited = await resolve(store, call, "EDITED", edited_arguments_json='{"path": "/tmp"}')
    assert edited.edited_arguments_json == '{"path": "/tmp"}'


BAD_REQUESTS = [
    (asks("call_1"), "approval_id"),
    (asks("appr_"), "approval_id"),
    (asks("appr_" + "x" * 200), "approval_id"),
    (asks(prompt="p" * 70_000), "prompt"),
    (question(role="owner"), "role"),
    (asks(expires_at=None), "expires_at"),
    (asks(prompt="", tool_call=None), "prompt"),
    (asks(tool_call=message_pb2.ToolCallPart(tool_call_id="c")), "tool_call.tool"),
]


async def test_a_bad_request_names_its_field(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    for event, field in BAD_REQUESTS:
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refused:
            await wait(turn, [event])
        (violation,) = refused.error.violations
        assert violation.field == f"events.approval_requested.{field}"
    assert await ids(store) == []


async def test_an_id_is_used_once(store: RunningStore) -> None:
    worker = await store.worker()
    await waiting(store, worker, [asks("appr_mine")])
    await store.start_conversation()
    turn = await worker.granted()
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await wait(turn, [asks("appr_mine")])
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await wait(turn, [asks("appr_twice"), asks("appr_twice")])


async def test_nothing_waits_for_an_approval_that_nobody_asked_for(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refused:
        await wait(turn, [])
    assert [violation.field for violation in refused.error.violations] == ["waiting_for"]


async def test_what_ran_out_is_expired_and_the_run_hears_of_it(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await waiting(store, worker, [asks(expires_at=LONG_AGO)])
    (answer,) = (await worker.granted()).grant.inputs
    assert answer.approval_resolved.status == event_pb2.APPROVAL_STATUS_EXPIRED
    assert answer.origin == event_pb2.EVENT_ORIGIN_STORE
    assert (await get(store, approval_id)).status == event_pb2.APPROVAL_STATUS_EXPIRED
    with raises_rich(PRECONDITION, "ALREADY_DECIDED") as refused:
        await resolve(store, approval_id)
    assert refused.error.metadata["status"] == "expired"
    assert await resolutions(store, turn.grant.run.conversation_id) == [(approval_id, "EXPIRED")]


async def test_the_time_to_wake_comes_though_something_is_still_asked(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    _, (approval_id,) = await waiting(store, worker, [asks()], wake_at=LONG_AGO)
    again = await worker.granted()
    assert not again.grant.inputs
    await resolve(store, approval_id)
    committed = await wait(again, [])
    assert committed.status == conversation_pb2.RUN_STATUS_RUNNABLE


async def test_a_cancelled_run_asks_for_nothing(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (one, two) = await waiting(store, worker, [asks(), asks()])
    cid = turn.grant.run.conversation_id
    await store.cancel(cid)
    assert await resolutions(store, cid) == [(one, "CANCELLED"), (two, "CANCELLED")]
    kinds = [event.WhichOneof("kind") for event in await store.log(cid)]
    assert kinds[-3:] == ["approval_resolved", "approval_resolved", "run_ended"]
    with raises_rich(PRECONDITION, "ALREADY_DECIDED") as refused:
        await resolve(store, one)
    assert refused.error.metadata["status"] == "cancelled"


async def test_a_discarded_turn_asked_for_nothing(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    await turn.record(events=[asks("appr_void")])
    await store.send(conversation.conversation_id, strategy="DELIVERY_STRATEGY_INTERRUPT")
    again = await worker.granted()
    assert [event.WhichOneof("kind") for event in again.grant.inputs] == ["message", "message"]
    assert (await get(store, "appr_void")).status == event_pb2.APPROVAL_STATUS_CANCELLED


async def test_a_replaced_turn_asked_for_nothing_and_is_taken_again(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await waiting(store, worker, [asks()])
    cid = turn.grant.run.conversation_id
    await store.send(cid, strategy="DELIVERY_STRATEGY_REPLACE_TURN")
    again = await worker.granted()
    assert [event.WhichOneof("kind") for event in again.grant.inputs] == ["message", "message"]
    assert (await get(store, approval_id)).status == event_pb2.APPROVAL_STATUS_CANCELLED


async def test_an_answer_that_comes_during_a_pause_is_there_after_it(store: RunningStore) -> None:
    worker = await store.worker()
    turn, (approval_id,) = await waiting(store, worker, [asks()])
    cid = turn.grant.run.conversation_id
    pause = store_pb.PauseConversationRequest(conversation_id=cid)
    await store.conversations.PauseConversation(pause, metadata=acting(ACME))
    await resolve(store, approval_id)
    assert (await store.get(cid)).run.status == conversation_pb2.RUN_STATUS_PAUSED
    resume = store_pb.ResumeConversationRequest(conversation_id=cid)
    await store.conversations.ResumeConversation(resume, metadata=acting(ACME))
    assert len((await worker.granted()).grant.inputs) == 1


async def test_lists_are_filtered_and_paged_oldest_first(store: RunningStore) -> None:
    worker = await store.worker()
    turn, mine = await waiting(store, worker, [asks() for _ in range(5)])
    _, others = await waiting(store, worker, [asks(), asks()])
    assert await ids(store) == mine + others
    assert await ids(store, page_size=2) == mine + others
    assert await ids(store, page_size=7) == mine + others
    cid = turn.grant.run.conversation_id
    assert await ids(store, conversation_id=cid, page_size=3) == mine
    await resolve(store, mine[1], "REJECTED")
    pending = [mine[0], *mine[2:], *others]
    assert await ids(store, status="APPROVAL_STATUS_PENDING", page_size=1) == pending
    assert await ids(store, status="APPROVAL_STATUS_REJECTED") == [mine[1]]
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await ids(store, token="nonsense")


async def test_pages_of_large_approvals_fit_into_messages(store: RunningStore) -> None:
    worker = await store.worker()
    call = message_pb2.ToolCallPart(tool="t", arguments_json="x" * 900_000)
    found: list[str] = []
    for _ in range(6):
        found += (await waiting(store, worker, [asks(tool_call=call)]))[1]
    assert await ids(store) == found


async def test_tenants_never_meet(store: RunningStore) -> None:
    worker = await store.worker()
    _, (approval_id,) = await waiting(store, worker, [asks()])
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await get(store, approval_id, OTHER)
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await resolve(store, approval_id, principal=OTHER)
    assert await ids(store, OTHER) == []
    assert (await get(store, approval_id)).status == event_pb2.APPROVAL_STATUS_PENDING
