"""Forks and deletion on each database, by the rows that are left."""

from __future__ import annotations

import asyncio

import pytest
from agentmesh.conversation.v1 import event_pb2
from agentmesh_conversation_store.domain.conversations import (
    CancelConversation,
)
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import SECOND, Strategy
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.search import parse_query
from agentmesh_conversation_store.retention import Retention
from agentmesh_conversation_store.storage.interface import (
    ApprovalQuery,
    ConversationQuery,
)

from services.conversation_store.tests.histories import LEASE, World
from services.conversation_store.tests.support import asks_event

HOUR = 3600


def message(event: StoredEvent) -> event_pb2.Event:
    """The event, decoded."""
    return event_pb2.Event.FromString(event.data)


async def test_a_fork_has_the_history_as_its_own_and_goes_its_own_way(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 3)
    before = await world.log(name)
    fork = await world.fork(name)
    await world.say(name, "only here")
    await world.say(fork, "only there")
    shared = (await world.log(fork))[: len(before)]
    assert [message(event).conversation_id for event in shared] == [fork] * len(before)
    source_id = event_pb2.Event(conversation_id=name).SerializeToString()
    fork_id = event_pb2.Event(conversation_id=fork).SerializeToString()
    assert [event.data for event in shared] == [event.data + fork_id for event in before]
    assert source_id != fork_id
    own = [message(event) for event in (await world.log(fork))[len(before) :]]
    assert own[0].conversation_forked.conversation_id == name
    assert own[0].conversation_forked.sequence == len(before)
    assert [event.sequence for event in own] == [len(before) + 1 + i for i in range(len(own))]
    assert "only there" in {event.message.content for event in own}
    assert "only here" not in {event.message.content for event in own}
    facts = (await world.view(fork)).facts
    assert (facts.forked_from, facts.forked_at) == (name, len(before))


async def test_a_fork_goes_on_from_the_newest_state_before_it(world: World) -> None:
    name = await world.start()
    outcomes = []
    for number in range(3):
        if number:
            await world.say(name)
        outcomes.append(await world.turn(name))
    middle = outcomes[1]
    state = next(
        message(event).sequence
        for event in await world.log(name)
        if event.kind == "turn_committed" and event.sequence > outcomes[0].last_sequence
    )
    fork = await world.fork(name, state)
    view = await world.view(fork)
    assert view.run.status.ended
    assert view.run.checkpoint_id == middle.checkpoint_id
    assert not view.run.has_unread
    await world.say(fork)
    (run,) = await world.storage.grant({"w": 1}, LEASE)
    assert (run.conversation_id, run.checkpoint_id) == (fork, middle.checkpoint_id)


async def test_what_was_not_read_before_the_fork_is_read_after_it(world: World) -> None:
    name = await world.start()
    await world.turn(name)
    first = await world.say(name, "unread one")
    second = await world.say(name, "unread two")
    await world.turn(name)
    fork = await world.fork(name, second)
    again = await world.fork(fork)
    for conversation in (fork, again):
        third = await world.say(conversation, "three")
        (run,) = await world.storage.grant({"w": 1}, LEASE)
        (turn,) = await world.storage.granted_turns([run], 10**6)
        assert [event.sequence for event in turn.inputs] == [first, second, third]


async def test_words_of_an_open_turn_do_not_count_in_a_fork(world: World) -> None:
    name = await world.start()
    outcome = await world.turn(name)
    await world.say(name)
    await world.turn(name, "said in the second turn")
    log = await world.log(name)
    said = log[-3]
    assert said.kind == "message"
    fork = await world.fork(name, said.sequence)
    view = await world.view(fork)
    assert view.run.checkpoint_id == outcome.checkpoint_id
    discarded = [message(e) for e in await world.log(fork) if e.kind == "turn_discarded"]
    assert [list(e.turn_discarded.message_ids) for e in discarded] == [[said.message_id]]
    assert view.run.has_unread, "the question of that turn was not answered here"


async def test_a_replaced_turn_is_not_the_state_of_a_later_fork(world: World) -> None:
    name = await world.start()
    first = await world.turn(name)
    await world.say(name)
    second = await world.turn(name)
    replaced = await world.say(name, "no, other", Strategy.REPLACE_TURN)
    before = await world.fork(name, second.last_sequence)
    after = await world.fork(name, replaced)
    assert (await world.view(before)).run.checkpoint_id == second.checkpoint_id
    view = await world.view(after)
    assert view.run.checkpoint_id == first.checkpoint_id
    assert view.run.has_unread


async def test_sizes_of_a_fork_are_those_of_its_log(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 4)
    head = (await world.view(name)).conversation.head_sequence
    source = await world.log(name)
    for at in range(1, head + 1):
        fork = await world.fork(name, at)
        conversation = (await world.view(fork)).conversation
        log = await world.log(fork)
        own = sum(len(event.data) for event in log[at:])
        assert conversation.size_bytes == sum(len(event.data) for event in source[:at]) + own
        assert conversation.message_count == sum(event.kind == "message" for event in log)


@pytest.mark.parametrize("at", [-1, 10_000])
async def test_a_fork_outside_of_the_log_is_refused(world: World, at: int) -> None:
    name = await world.start()
    await world.rounds(name, 4)
    await world.limit(retention_events=2)
    await world.keep()
    with pytest.raises(Rejection) as refused:
        await world.fork(name, at if at > 0 else 1)
    assert refused.value.reason is (Reason.BEYOND_HEAD if at > 0 else Reason.HISTORY_REMOVED)


async def test_nothing_is_left_of_a_deleted_conversation(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 5)
    await world.say(name)
    await world.storage.grant({"w": 1}, LEASE)
    await world.delete(name)
    with pytest.raises(Rejection):
        await world.view(name)
    assert not await world.storage.conversations("acme", ConversationQuery(10))
    assert not await world.storage.events("acme", name, 0, 10, 10**9)
    assert not await world.storage.heads([("acme", name)])
    await world.keep()
    assert set((await world.rows()).values()) == {0}, await world.rows()


async def test_what_a_deleted_conversation_asked_people_is_unknown_at_once(world: World) -> None:
    name = await world.start()
    await world.turn(name, events=[asks_event("appr_gone", world.clock.now + LEASE)])
    other = await world.start()
    await world.turn(other, events=[asks_event("appr_kept", world.clock.now + LEASE)])
    await world.delete(name)
    assert (await world.rows())["approvals"] == 2, "nothing is removed yet"
    assert await world.storage.approval("acme", "appr_gone") is None
    shown = await world.storage.approvals("acme", ApprovalQuery(10))
    assert [approval.approval_id for approval in shown] == ["appr_kept"]


async def test_a_fork_behind_a_replaced_turn_has_a_state_after_retention(world: World) -> None:
    """The log begins with the turn that was replaced; what came next stands at the state before."""
    name = await world.start()
    await world.rounds(name, 3)
    await world.say(name, "not that")
    await world.say(name, "rather this", Strategy.REPLACE_TURN)
    replaced = (await world.view(name)).run
    head = (await world.view(name)).conversation.head_sequence
    for answer in ("this", "and this", "and that"):
        await world.turn(name, answer)
        await world.say(name, "go on")
    log = await world.log(name)
    (third,) = [e.sequence for e in log if e.kind == "turn_committed"][2:3]
    newest = (await world.view(name)).conversation.head_sequence
    await world.limit(retention_events=newest - third + 1)
    await world.keep()
    assert (await world.view(name)).conversation.oldest_sequence == third
    fork = await world.view(await world.fork(name, head))
    assert fork.run.checkpoint_id == replaced.checkpoint_id
    assert await world.storage.checkpoints("acme", [fork.run.checkpoint_id])


async def test_a_deletion_ends_what_is_under_way(world: World) -> None:
    name = await world.start()
    (run,) = await world.storage.grant({"w": 1}, LEASE)
    await world.delete(name)
    (raised,) = await world.storage.raised_fences(0)
    assert (raised.run_id, raised.worker_id) == (run.run_id, "w")
    assert raised.fence > run.fence
    assert not await world.storage.grant({"w": 1}, LEASE)


async def test_a_fork_keeps_what_it_shares_and_the_last_one_lets_go(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 4)
    source = await world.log(name)
    fork = await world.fork(name, 9)
    inner = await world.fork(fork, 7)
    await world.delete(name)
    await world.keep()
    for conversation, at in ((fork, 9), (inner, 7)):
        log = await world.log(conversation)
        suffix = event_pb2.Event(conversation_id=conversation).SerializeToString()
        assert [event.data for event in log[:at]] == [e.data + suffix for e in source[:at]]
    await world.delete(fork)
    await world.keep()
    assert len(await world.log(inner)) >= 8
    (row,) = [r for r in (await world.rows()).items() if r[0] == "events"]
    assert row[1] == len(await world.log(inner)), "what only the other fork shared is gone"
    standing = (await world.view(inner)).run.checkpoint_id
    assert await world.storage.checkpoints("acme", [standing])
    await world.delete(inner)
    await world.keep()
    assert set((await world.rows()).values()) == {0}, await world.rows()


async def test_legal_hold_stops_deletion_and_retention(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 5)
    await world.hold(name)
    await world.limit(retention_events=1, retention_age=SECOND)
    await world.storage.execute(CancelConversation("acme", name, ""))
    world.clock.advance(HOUR)
    with pytest.raises(Rejection) as refused:
        await world.delete(name)
    assert refused.value.reason is Reason.LEGAL_HOLD
    await world.keep()
    assert len(await world.log(name)) == (await world.view(name)).conversation.head_sequence
    await world.hold(name, on=False)
    await world.keep()
    with pytest.raises(Rejection):
        await world.view(name)


async def test_nothing_is_cut_off_what_is_held(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 5)
    await world.hold(name)
    await world.limit(retention_events=1)
    before = await world.log(name)
    await world.keep()
    assert await world.log(name) == before
    await world.hold(name, on=False)
    await world.keep()
    assert len(await world.log(name)) < len(before)


async def test_removal_that_is_broken_off_goes_on_elsewhere(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 6)
    await world.delete(name)
    for _ in range(3):
        assert (removed := await world.storage.remove_some(2)) is not None
        assert removed.rows
    other = Retention(world.storage, world.blobs, look_seconds=1, poll_seconds=1)
    assert await other.remove_all() > 0
    assert set((await world.rows()).values()) == {0}


async def test_two_replicas_remove_each_row_once(world: World) -> None:
    for _ in range(3):
        name = await world.start()
        await world.rounds(name, 4)
        await world.delete(name)
    events = (await world.rows())["events"]

    async def remove() -> int:
        total = 0
        while (removed := await world.storage.remove_some(3)) is not None:
            total += removed.rows
        return total

    counts = await asyncio.gather(remove(), remove())
    assert set((await world.rows()).values()) == {0}
    assert sum(counts) >= events


async def test_the_feed_tells_nothing_of_what_was_deleted(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 2)
    fork = await world.fork(name)
    await world.delete(name)
    told = (await world.storage.feed("acme", 0, 100, 10**9)).events
    assert {event.conversation_id for event in told} == {fork}


async def test_a_fork_is_found_by_the_words_that_it_shares_and_no_others(world: World) -> None:
    name = await world.start()
    await world.turn(name, "an armadillo")
    await world.say(name, "and a platypus")
    at = (await world.view(name)).conversation.head_sequence - 2
    fork = await world.fork(name, at)
    await world.delete(name)
    await world.keep()

    async def found(text: str) -> list[str]:
        query = ConversationQuery(10, text=parse_query(text))
        views = await world.storage.conversations("acme", query)
        return [view.conversation.conversation_id for view in views]

    assert await found("armadillo") == [fork]
    assert await found("platypus") == []
