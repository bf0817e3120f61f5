"""Chains of checkpoints: kept, granted, read in pieces, and refused where they do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from agentmesh_conversation_store.domain.model import SECOND, Checkpoint, Run, RunStatus
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.turns import CommitTurn
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.sqlite.database import connect, migrate, migrations
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import LeasedWorker, RunningStore, Turn
from services.conversation_store.tests.support import fresh, start_command, turn_pb

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
MIB = 1 << 20


async def _leased(storage: Storage) -> Run:
    (run,) = await storage.grant({"w": 1}, 5 * SECOND)
    return run


def _commit(run: Run, base_id: str = "", data: bytes = b"state") -> CommitTurn:
    checkpoint = Checkpoint(fresh("ckpt"), run.run_id, run.turn + 1, data, base_id=base_id)
    return CommitTurn(
        run.tenant,
        run.conversation_id,
        run.run_id,
        run.fence,
        run.turn + 1,
        {"data": str(data), "base": base_id},
        RunStatus.RUNNABLE,
        checkpoint=checkpoint,
    )


async def _talk(storage: Storage, whole: Sequence[bool], data: bytes = b"state") -> list[str]:
    """Turns of a new run, each committed with a whole checkpoint or a difference; their ids."""
    await storage.execute(start_command(max_rounds=100))
    ids = [""]
    for is_whole in whole:
        run = await _leased(storage)
        base = "" if is_whole else ids[-1]
        ids.append((await storage.execute(_commit(run, base, data))).checkpoint_id)
    return ids[1:]


async def test_a_grant_carries_the_chain_from_its_whole_checkpoint_on(storage: Storage) -> None:
    ids = await _talk(storage, [True, False, True, False, False])
    run = await _leased(storage)
    (turn,) = await storage.granted_turns([run], MIB)
    assert [link.checkpoint_id for link in turn.chain] == ids[2:]
    assert [link.base_id for link in turn.chain] == ["", *ids[2:4]]


async def test_checkpoints_of_committed_turns_stay(storage: Storage) -> None:
    ids = await _talk(storage, [True, False, True, True, False])
    run = await _leased(storage)
    for newest, expected in zip(ids, [1, 2, 1, 1, 2], strict=True):
        (turn,) = await storage.granted_turns([replace(run, checkpoint_id=newest)], MIB)
        assert [link.checkpoint_id for link in turn.chain][-1] == newest
        assert len(turn.chain) == expected


async def test_a_checkpoint_knows_where_in_the_log_its_turn_was_committed(
    storage: Storage,
) -> None:
    ids = await _talk(storage, [True, False, True])
    run = await _leased(storage)
    events = await storage.events("acme", run.conversation_id, 0, 100, 10**9)
    committed = [event.sequence for event in events if event.kind == "turn_committed"]
    kept = await storage.checkpoints("acme", ids)
    assert [one.sequence for one in kept] == committed
    assert {one.conversation_id for one in kept} == {run.conversation_id}


async def test_a_chain_that_is_too_large_or_not_wanted_is_left_out(storage: Storage) -> None:
    ids = await _talk(storage, [True, False, False], b"x" * 1000)
    run = await _leased(storage)
    for most, expected in ((0, 0), (2999, 0), (4000, 3)):
        (turn,) = await storage.granted_turns([run], most)
        assert len(turn.chain) == expected
    links = await storage.checkpoint_links("acme", run.run_id, run.fence, ids[-1])
    assert [(link.checkpoint_id, link.size) for link in links] == [(name, 1000) for name in ids]


async def test_a_chain_is_read_under_the_fence_of_its_run_alone(storage: Storage) -> None:
    ids = await _talk(storage, [True, False])
    run = await _leased(storage)
    for tenant, fence, checkpoint_id, reason in (
        ("acme", run.fence - 1, ids[-1], Reason.STALE_FENCE),
        ("acme", run.fence, ids[0], Reason.NOT_FOUND),
        ("other", run.fence, ids[-1], Reason.NOT_FOUND),
    ):
        with pytest.raises(Rejection) as refused:
            await storage.checkpoint_links(tenant, run.run_id, fence, checkpoint_id)
        assert refused.value.reason is reason
    assert not await storage.checkpoints("other", ids)


async def test_a_difference_to_anything_but_the_present_checkpoint_is_refused(
    storage: Storage,
) -> None:
    foreign = await _talk(storage, [True])
    strange = await _leased(storage)
    ids = await _talk(storage, [True, False])
    run = await _leased(storage)
    assert run.run_id != strange.run_id
    for base in ("ckpt_nobody", foreign[0], ids[0]):
        with pytest.raises(Rejection) as refused:
            await storage.execute(_commit(run, base))
        assert refused.value.reason is Reason.CHECKPOINT_MISMATCH
        assert refused.value.metadata["base_checkpoint_id"] == base
        assert refused.value.metadata["expected_checkpoint_id"] == ids[-1]
    assert (await storage.execute(_commit(run, ids[-1]))).status is RunStatus.RUNNABLE


# --- through the service -------------------------------------------------------------------------


def _saved(data: bytes, base: str = "") -> turn_pb.Checkpoint:
    return turn_pb.Checkpoint(data=data, encoding="test/1", base_checkpoint_id=base)


async def _grow(worker: LeasedWorker, sizes: Sequence[int]) -> list[tuple[str, bytes]]:
    """Takes turns that commit a chain with data of these sizes; gives ids and data."""
    chain: list[tuple[str, bytes]] = []
    turn = await worker.granted()
    for number, size in enumerate(sizes):
        data = bytes([number + 1]) * size
        base = chain[-1][0] if chain else ""
        last = number == len(sizes) - 1
        answer = await turn.commit(checkpoint=_saved(data, base), want_next=not last)
        chain.append((answer.checkpoint_id, data))
        if answer.HasField("next"):
            assert answer.next.checkpoint == turn_pb.Checkpoint(checkpoint_id=answer.checkpoint_id)
            assert not answer.next.base_checkpoints
            turn = Turn(turn.store, answer.next)
        elif not last:
            turn = await worker.granted()
    return chain


async def _read(turn: Turn, checkpoint_id: str = "") -> list[turn_pb.ReadCheckpointsResponse]:
    request = turn_pb.ReadCheckpointsRequest(
        run_id=turn.run_id,
        checkpoint_id=checkpoint_id or turn.grant.checkpoint.checkpoint_id,
    )
    stream = turn.store.turns.ReadCheckpoints(request, metadata=turn.metadata)
    return [response async for response in stream]


async def test_a_cold_worker_is_granted_the_chain(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    chain = await _grow(worker, [5000, 300, 200])
    grant = (await worker.granted()).grant
    granted = [*grant.base_checkpoints, grant.checkpoint]
    assert [(one.checkpoint_id, one.data) for one in granted] == chain
    assert [one.base_checkpoint_id for one in granted] == ["", chain[0][0], chain[1][0]]
    assert {one.encoding for one in granted} == {"test/1"}


async def test_a_chain_too_large_for_a_grant_is_read_in_pieces(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    chain = await _grow(worker, [2 * MIB, 0, 10, 3 * MIB, 700_000, 1])
    turn = await worker.granted()
    assert turn.grant.checkpoint.checkpoint_id == chain[-1][0]
    assert not turn.grant.checkpoint.data
    assert not turn.grant.base_checkpoints
    responses = await _read(turn)
    assert max(response.ByteSize() for response in responses) <= MIB
    joined: dict[str, bytes] = {}
    for response in responses:
        for piece in response.pieces:
            joined[piece.checkpoint_id] = joined.get(piece.checkpoint_id, b"") + piece.data
    assert list(joined.items()) == chain


async def test_reading_a_chain_needs_the_lease(store: RunningStore) -> None:
    worker = await store.worker()
    await store.start_conversation()
    chain = await _grow(worker, [10, 10])
    gone = await worker.granted()
    await gone.release()
    turn = await worker.granted()
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await _read(gone)
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await _read(turn, chain[0][0])
    with raises_rich(PRECONDITION, "CHECKPOINT_MISMATCH"):
        await turn.commit(checkpoint=_saved(b"x", chain[0][0]))
    assert len((await _read(turn))[0].pieces) == 2


async def test_a_successor_goes_on_from_its_predecessors_chain(store: RunningStore) -> None:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    first = await turn.commit(checkpoint=_saved(b"one"))
    turn = await worker.granted()
    second = await turn.commit("COMPLETED", checkpoint=_saved(b"two", first.checkpoint_id))
    await store.send(conversation.conversation_id, "and now?")
    successor = await worker.granted()
    assert successor.run_id != turn.run_id
    granted = [*successor.grant.base_checkpoints, successor.grant.checkpoint]
    assert [one.data for one in granted] == [b"one", b"two"]
    await successor.commit("COMPLETED", checkpoint=_saved(b"three", second.checkpoint_id))


async def test_a_grant_fits_into_a_message_whatever_waits(store: RunningStore) -> None:
    """Inputs and results that are too many for one message come later, or when asked for."""
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.commit(checkpoint=_saved(b"c" * 900_000))
    said = [f"{number:02}" * 100_000 for number in range(25)]
    for content in said:
        await store.send(conversation.conversation_id, content)
    turn = await worker.granted()
    if not turn.grant.inputs:  # granted before they were sent
        await turn.release()
        turn = await worker.granted()
    for number in range(3):
        await turn.begin(f"tool/{number}", kind=turn_pb.STEP_KIND_TOOL)
        await turn.record(f"tool/{number}", result=b"r" * 2 * MIB, events=[])
    await turn.release()

    turn = await worker.granted()
    grant = turn.grant
    assert grant.ByteSize() <= 4 * MIB
    seen = [event.message.content for event in grant.inputs]
    assert 0 < len(seen) < len(said)
    assert [step.step_key for step in grant.steps] == ["tool/0", "tool/1", "tool/2"]
    omitted = [step for step in grant.steps if step.result_omitted]
    assert omitted
    for step in omitted:
        assert step.state == turn_pb.STEP_STATE_RECORDED
        again = await turn.begin(step.step_key, kind=turn_pb.STEP_KIND_TOOL)
        assert again.step.result == b"r" * 2 * MIB
    while len(seen) < len(said):
        await turn.commit()
        turn = await worker.granted()
        seen += [event.message.content for event in turn.grant.inputs]
    assert seen == said


def test_checkpoints_of_an_older_database_learn_where_they_were_committed(tmp_path: Path) -> None:
    connection = connect(tmp_path / "s.db")
    connection.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
    connection.executescript(migrations()[0][1])
    connection.execute("INSERT INTO schema_version VALUES (1)")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
    values = {"tenant": "acme", "run_id": "run_1", "conversation_id": "conv_1"}
    connection.execute(
        f"INSERT INTO runs VALUES ({', '.join('?' * len(columns))})",  # noqa: S608
        [values.get(name, "") for name in columns],
    )
    for sequence, kind in enumerate(("message", "turn_committed", "run_ended"), 1):
        connection.execute(
            "INSERT INTO events VALUES ('acme', 'conv_1', ?, ?, 'run_1', '', '', 7, x'00')",
            (sequence, kind),
        )
    connection.execute(
        "INSERT INTO checkpoints VALUES ('acme', 'ckpt_1', 'run_1', 7, x'00', 'e', '', '')"
    )
    migrate(connection, lambda _: "")
    found = connection.execute("SELECT conversation_id, sequence FROM checkpoints").fetchall()
    connection.close()
    assert found == [("conv_1", 2)]
