"""Retention on each database: what it takes, and what it must leave."""

from __future__ import annotations

import pytest
from agentmesh_conversation_store.domain.conversations import CancelConversation
from agentmesh_conversation_store.domain.model import SECOND, RunStatus, Strategy
from agentmesh_conversation_store.domain.rejections import Rejection
from agentmesh_conversation_store.domain.updating import UpdateConversation

from services.conversation_store.tests.histories import LEASE, World

HOUR = 3600


async def test_too_many_events_go_turn_by_turn(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 6)
    before = await world.log(name)
    await world.limit(retention_events=8)
    await world.keep()
    log = await world.log(name)
    assert 8 <= len(log) < len(before)
    assert log == before[-len(log) :]
    assert log[0].kind == "turn_committed"
    conversation = (await world.view(name)).conversation
    assert conversation.oldest_sequence == log[0].sequence
    assert conversation.kept_bytes == sum(len(event.data) for event in log)
    rows = await world.rows()
    assert rows["events"] == len(log)
    assert rows["checkpoints"] < 6
    await world.say(name)
    await world.turn(name)


async def test_old_events_go_and_old_conversations_altogether(world: World) -> None:
    old = await world.start()
    await world.rounds(old, 2)
    await world.storage.execute(CancelConversation("acme", old, ""))
    mixed = await world.start()
    await world.rounds(mixed, 3)
    world.clock.advance(2 * HOUR)
    await world.say(mixed)
    await world.turn(mixed)
    await world.limit(retention_age=HOUR * SECOND)
    await world.keep()
    with pytest.raises(Rejection):
        await world.view(old)
    log = await world.log(mixed)
    # The newest turn may be replaced while the run is under way: the one before it stays.
    assert log[0].kind == "turn_committed"
    assert log[0].sequence > 1


async def test_a_conversation_has_its_own_retention(world: World) -> None:
    name = await world.start()
    await world.rounds(name, 5)
    other = await world.start()
    await world.rounds(other, 5)
    await world.storage.execute(
        UpdateConversation("acme", name, None, None, None, "", retention_events=5)
    )
    await world.keep()
    assert (await world.view(name)).conversation.oldest_sequence > 1
    assert (await world.view(other)).conversation.oldest_sequence == 1


async def test_unread_inputs_stay(world: World) -> None:
    name = await world.start()
    await world.turn(name)
    unread = await world.say(name, "not read yet")
    for _ in range(20):
        await world.say(name)
    await world.limit(retention_events=2)
    await world.keep()
    assert (await world.view(name)).conversation.oldest_sequence <= unread
    (run,) = await world.storage.grant({"w": 1}, LEASE)
    (turn,) = await world.storage.granted_turns([run], 10**6)
    assert len(turn.inputs) == 21


async def test_an_input_that_turn_after_turn_left_unread_stays(world: World) -> None:
    name = await world.start()
    await world.turn(name)
    read = (await world.view(name)).run.inbox_read
    unread = await world.say(name, "not read yet")
    for _ in range(6):
        await world.turn(name, last_input_sequence=read)
    await world.limit(retention_events=2)
    await world.keep()
    assert 1 < (await world.view(name)).conversation.oldest_sequence <= unread
    (run,) = await world.storage.grant({"w": 1}, LEASE)
    (turn,) = await world.storage.granted_turns([run], 10**6)
    assert [message.sequence for message in turn.inputs] == [unread]


async def test_chains_of_checkpoints_stay_whole(world: World) -> None:
    name = await world.start()
    base = ""
    for number in range(8):
        if number:
            await world.say(name)
        base = "" if number == 4 else base
        base = (await world.turn(name, base=base)).checkpoint_id
    fork = await world.fork(name)
    await world.limit(retention_events=6)
    await world.keep()
    for conversation in (name, fork):
        await world.say(conversation)
        (run,) = await world.storage.grant({"w": 1}, LEASE)
        links = await world.storage.checkpoint_links(
            "acme", run.run_id, run.fence, run.checkpoint_id
        )
        assert len(links) == 4
    assert (await world.rows())["checkpoints"] < 8


async def test_a_replaced_turn_may_still_be_replaced_after_a_cut(world: World) -> None:
    name = await world.start()
    first = None
    for number in range(5):
        if number:
            await world.say(name)
        before, first = first, await world.turn(name)
    await world.limit(retention_events=1)
    await world.keep()
    await world.say(name, "another way", Strategy.REPLACE_TURN)
    (run,) = await world.storage.grant({"w": 1}, LEASE)
    assert before is not None
    assert run.checkpoint_id == before.checkpoint_id
    (turn,) = await world.storage.granted_turns([run], 10**6)
    assert len(turn.inputs) == 2, "the question of the replaced turn, and the new one"
    assert turn.chain


async def test_a_silent_turn_may_still_be_replaced_after_a_cut(world: World) -> None:
    name = await world.start()
    await world.turn(name, "", status=RunStatus.RUNNABLE)
    before = await world.turn(name, "", status=RunStatus.RUNNABLE)
    await world.turn(name, "")
    await world.limit(retention_events=1)
    await world.keep()
    assert (await world.view(name)).conversation.oldest_sequence > 1
    await world.say(name, "another way", Strategy.REPLACE_TURN)
    (run,) = await world.storage.grant({"w": 1}, LEASE)
    assert run.checkpoint_id == before.checkpoint_id
    (turn,) = await world.storage.granted_turns([run], 10**6)
    assert turn.chain


async def test_what_a_replaced_turn_had_read_late_is_read_again_after_a_cut(world: World) -> None:
    name = await world.start()
    await world.turn(name)
    read = (await world.view(name)).run.inbox_read
    late = await world.say(name, "read late")
    await world.turn(name, last_input_sequence=read)
    await world.turn(name)
    await world.limit(retention_events=1)
    await world.keep()
    new = await world.say(name, "another way", Strategy.REPLACE_TURN)
    (run,) = await world.storage.grant({"w": 1}, LEASE)
    (turn,) = await world.storage.granted_turns([run], 10**6)
    assert [message.sequence for message in turn.inputs] == [late, new]


async def test_the_last_words_of_a_run_under_way_stay(world: World) -> None:
    name = await world.start()
    await world.turn(name, "not the last", status=RunStatus.RUNNABLE)
    await world.turn(name, "the answer", status=RunStatus.RUNNABLE)
    for _ in range(6):
        await world.turn(name, "", status=RunStatus.RUNNABLE)
    await world.limit(retention_events=2)
    await world.keep()
    said = [event for event in await world.log(name) if event.kind == "message"]
    assert b"the answer" in said[0].data
