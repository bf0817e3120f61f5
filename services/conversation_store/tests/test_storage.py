"""What every storage must do, whatever database is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from agentmesh_conversation_store.domain.attempts import Tick
from agentmesh_conversation_store.domain.changes import Changes, Decision, Loaded, Scope
from agentmesh_conversation_store.domain.conversations import (
    CancelConversation,
    MessageSent,
    SendMessage,
)
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Run,
    RunStatus,
    Strategy,
)
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.catalog import (
    DocumentDeletion,
    DocumentQuery,
    DocumentWrite,
    NewDocument,
    StoredDocument,
)
from agentmesh_conversation_store.storage.interface import (
    ConversationQuery,
    Storage,
)
from agentmesh_conversation_store.storage.requests import Request

from services.conversation_store.tests.support import (
    ManualClock,
    Recorder,
    fresh,
    start_command,
)
from services.conversation_store.tests.work import LEASE, RETRIES, begin, commit, record


def _message(conversation_id: str, content: str = "hi", tenant: str = "acme") -> SendMessage:
    body = UserMessage(fresh("msg"), "user", content, "alice")
    return SendMessage(
        tenant, conversation_id, body, Strategy.AFTER_TURN, fresh("run"), traceparent=""
    )


async def _started(storage: Storage, **changes: Any) -> Run:
    view = await storage.execute(start_command(**changes))
    return view.run


async def _leased(storage: Storage, worker: str = "w") -> Run:
    (run,) = await storage.grant({worker: 1}, LEASE)
    return run


async def test_concurrent_writers_leave_no_holes(storage: Storage) -> None:
    recorder = Recorder()
    storage.on_commit(recorder)
    run = await _started(storage)
    await asyncio.gather(
        *(storage.execute(_message(run.conversation_id, str(n))) for n in range(300))
    )
    events = await storage.events("acme", run.conversation_id, 0, 1000, 10**9)
    assert [event.sequence for event in events] == list(range(1, 304))
    heard = [event.sequence for one in recorder.committed for event in one.events]
    assert heard == list(range(1, 304))
    view = await storage.conversation("acme", run.conversation_id)
    assert view.conversation.size_bytes == sum(len(event.data) for event in events)
    assert view.conversation.message_count == 301


async def test_a_refused_operation_leaves_its_neighbours_alone(storage: Storage) -> None:
    run = await _started(storage)
    outcomes = await asyncio.gather(
        storage.execute(_message(run.conversation_id)),
        storage.execute(_message("conv_nobody")),
        storage.execute(_message(run.conversation_id, tenant="other")),
        storage.execute(_message(run.conversation_id)),
        return_exceptions=True,
    )
    refused = [one for one in outcomes if isinstance(one, Rejection)]
    assert [rejection.reason for rejection in refused] == [Reason.NOT_FOUND] * 2
    head = (await storage.heads([("acme", run.conversation_id)]))["acme", run.conversation_id]
    assert head.sequence == 5


class _Defect:
    """An operation that cannot be written: its event has the sequence of another one."""

    def __init__(self, run: Run) -> None:
        self._message = _message(run.conversation_id)

    @property
    def scope(self) -> Scope:
        return self._message.scope

    def decide(self, loaded: Loaded, now: int) -> Decision[object]:
        changes = self._message.decide(loaded, now).changes
        event = replace(changes.events[0], sequence=1)
        return Decision(Changes(conversation=changes.conversation, events=[event]), None)


async def test_a_defect_in_one_operation_does_not_spoil_the_group(storage: Storage) -> None:
    recorder = Recorder()
    storage.on_commit(recorder)
    run = await _started(storage)
    outcomes = await asyncio.gather(
        *(storage.execute(_message(run.conversation_id)) for _ in range(5)),
        storage.execute(_Defect(run)),
        *(storage.execute(_message(run.conversation_id)) for _ in range(5)),
        return_exceptions=True,
    )
    assert isinstance(outcomes[5], Exception)
    assert not any(isinstance(one, BaseException) for one in outcomes[:5] + outcomes[6:])
    events = await storage.events("acme", run.conversation_id, 0, 100, 10**9)
    assert [event.sequence for event in events] == list(range(1, 14))
    heard = [event.sequence for one in recorder.committed for event in one.events]
    assert heard == list(range(1, 14))


async def test_a_request_is_carried_out_once_for_a_day(
    storage: Storage, clock: ManualClock
) -> None:
    run = await _started(storage)
    message = _message(run.conversation_id)
    request: Request[MessageSent] = Request(
        "acme", "r", b"digest", lambda sent: sent.message_id.encode()
    )
    first = await storage.execute_once(message, request)
    clock.advance(24 * 3600 - 1)
    other = _message(run.conversation_id)
    assert await storage.execute_once(other, request) == first
    with pytest.raises(Rejection) as refused:
        await storage.execute_once(other, replace(request, digest=b"another"))
    assert refused.value.reason is Reason.REQUEST_ID_REUSED
    clock.advance(2)
    await storage.prune()
    assert await storage.execute_once(other, replace(request, digest=b"another")) != first


async def test_a_refused_request_may_be_tried_again(storage: Storage) -> None:
    run = await _started(storage)
    rejecting = replace(_message(run.conversation_id), strategy=Strategy.REJECT_IF_RUNNING)
    request: Request[MessageSent] = Request(
        "acme", "r", b"digest", lambda sent: sent.message_id.encode()
    )
    with pytest.raises(Rejection):
        await storage.execute_once(rejecting, request)
    await storage.execute(CancelConversation("acme", run.conversation_id, ""))
    assert await storage.execute_once(rejecting, request)


async def test_a_write_that_is_refused_half_way_leaves_nothing(storage: Storage) -> None:
    """Neither what it wrote before it was refused nor the id of its request."""
    await storage.put_documents("acme", DocumentWrite([NewDocument(1, "b", b"1", "one")]), None)
    write = DocumentWrite(
        [NewDocument(1, "a", b"2", "two"), NewDocument(1, "b", b"2", "two")], must_be_new=True
    )
    request: Request[Sequence[StoredDocument]] = Request(
        "acme", "r", b"digest", lambda documents: f"{len(documents)} written".encode()
    )
    with pytest.raises(Rejection) as refused:
        await storage.put_documents("acme", write, request)
    assert refused.value.reason is Reason.ALREADY_EXISTS
    found = await storage.documents("acme", DocumentQuery(1), 10)
    assert [document.name for document in found] == ["b"]
    await storage.delete_document("acme", DocumentDeletion(1, "b", "agent"), None)
    assert await storage.put_documents("acme", write, request) == b"2 written"
    assert await storage.put_documents("acme", write, request) == b"2 written"


async def test_leases_follow_the_storages_clock(storage: Storage, clock: ManualClock) -> None:
    await _started(storage)
    run = await _leased(storage)
    assert not await storage.grant({"v": 1}, LEASE)
    clock.advance(4)
    renewal = await storage.renew("w", [(run.run_id, run.fence)], LEASE)
    assert renewal.kept == [(run.run_id, run.fence)]
    clock.advance(4.9)
    assert not await storage.due(expired=True, limit=10)
    clock.advance(0.2)
    assert not await storage.due(expired=False, limit=10)
    (due,) = await storage.due(expired=True, limit=10)
    await storage.execute(Tick(due.tenant, due.conversation_id, due.run_id, RETRIES))
    again = await _leased(storage, "v")
    assert again.fence == run.fence + 1
    renewal = await storage.renew("w", [(run.run_id, run.fence)], LEASE)
    assert [lost.current_fence for lost in renewal.lost] == [again.fence]


async def test_a_late_renewal_gets_a_lease_back_that_nobody_took(
    storage: Storage, clock: ManualClock
) -> None:
    await _started(storage)
    run = await _leased(storage)
    clock.advance(6)
    (due,) = await storage.due(expired=True, limit=10)
    await storage.execute(Tick(due.tenant, due.conversation_id, due.run_id, RETRIES))
    renewal = await storage.renew("w", [(run.run_id, run.fence)], LEASE)
    assert renewal.kept
    assert not await storage.grant({"v": 1}, LEASE)
    await storage.execute(commit(run))


async def test_lost_workers_end_as_a_dead_letter(storage: Storage, clock: ManualClock) -> None:
    started = await _started(storage)
    for _ in range(RETRIES.max_losses):
        await _leased(storage)
        clock.advance(6)
        (due,) = await storage.due(expired=True, limit=10)
        run = await storage.execute(Tick(due.tenant, due.conversation_id, due.run_id, RETRIES))
    assert run.status is RunStatus.DEAD_LETTER
    view = await storage.conversation("acme", started.conversation_id)
    assert view.run.status is RunStatus.DEAD_LETTER
    assert not await storage.grant({"w": 1}, LEASE)


async def test_grants_are_fair_and_bounded(storage: Storage) -> None:
    for _ in range(10):
        await _started(storage, tenant="flood")
    await _started(storage, tenant="quiet")
    runs = await storage.grant({"a": 2, "b": 1}, LEASE)
    assert sorted(run.tenant for run in runs) == ["flood", "flood", "quiet"]
    assert sorted(run.lease_worker for run in runs) == ["a", "a", "b"]


async def test_old_steps_go(storage: Storage) -> None:
    await _started(storage)
    for _ in range(6):
        run = await _leased(storage)
        await storage.execute(begin(run))
        await storage.execute(record(run))
        await storage.execute(commit(run))
    run = await _leased(storage)
    (old,) = await storage.granted_turns([replace(run, turn=run.turn - 3)], 0)
    assert not old.steps


async def test_a_grant_holds_every_unread_input_before_its_head(storage: Storage) -> None:
    run = await _started(storage)
    run = await _leased(storage)
    await storage.execute(commit(run, last_input_sequence=run.inbox_head))
    run = await _leased(storage)
    assert not run.has_unread
    await storage.execute(_message(run.conversation_id, "just after the lease"))
    (granted,) = await storage.granted_turns([run], 0)
    assert [event.sequence for event in granted.inputs] == [granted.head_sequence]


async def test_a_child_ends_before_its_parent_and_its_last_end_wakes_it(
    storage: Storage, clock: ManualClock
) -> None:
    parent = await _started(storage)
    child = replace(
        parent, run_id=fresh("run"), parent_run_id=parent.run_id, status=RunStatus.RUNNABLE
    )
    await storage.execute(_Adopt(child))
    view = await storage.execute(CancelConversation("acme", parent.conversation_id, "stop"))
    assert view.run.status is RunStatus.CANCELLED
    events = await storage.events("acme", parent.conversation_id, 0, 100, 10**9)
    ended = [event.run_id for event in events if event.kind == "run_ended"]
    assert ended == [child.run_id, parent.run_id]
    raised = await storage.raised_fences(clock.now - SECOND)
    assert {fence.run_id for fence in raised} == {child.run_id, parent.run_id}


class _Adopt:
    """Writes a child run, which no public operation does yet."""

    def __init__(self, child: Run) -> None:
        self._child = child

    @property
    def scope(self) -> Scope:
        return Scope(self._child.tenant, self._child.conversation_id)

    def decide(self, loaded: Loaded, now: int) -> Decision[None]:
        return Decision(Changes(runs=[self._child]), None)


async def test_tenants_never_meet(storage: Storage) -> None:
    mine = await _started(storage)
    with pytest.raises(Rejection):
        await storage.conversation("other", mine.conversation_id)
    with pytest.raises(Rejection):
        await storage.tail("other", mine.conversation_id, 10)
    assert not await storage.events("other", mine.conversation_id, 0, 10, 1000)
    assert not await storage.heads([("other", mine.conversation_id)])
    assert not await storage.conversations("other", ConversationQuery(10))
    run = await _leased(storage)
    stolen = replace(run, tenant="other")
    for command in (begin(stolen), record(stolen), commit(stolen)):
        with pytest.raises(Rejection) as refused:
            await storage.execute(command)
        assert refused.value.reason is Reason.NOT_FOUND


async def test_a_batch_of_events_respects_its_size(storage: Storage) -> None:
    run = await _started(storage)
    for _ in range(5):
        await storage.execute(_message(run.conversation_id, "z" * 1000))
    batch = await storage.events("acme", run.conversation_id, 3, 100, 5000)
    assert [event.sequence for event in batch] == [4, 5]
    assert len(await storage.events("acme", run.conversation_id, 3, 100, 1)) == 1
    assert len(await storage.events("acme", run.conversation_id, 0, 2, 10**9)) == 2
