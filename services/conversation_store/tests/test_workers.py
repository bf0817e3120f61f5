"""How many places a runtime has left, as news and renewals cross each other."""

from __future__ import annotations

from dataclasses import replace

from agentmesh_conversation_store.domain.changes import Loaded
from agentmesh_conversation_store.domain.model import SECOND, RaisedFence, Run, RunStatus
from agentmesh_conversation_store.domain.runs import granted, runnable, turn_closed
from agentmesh_conversation_store.fanout.interface import ChangedRun
from agentmesh_conversation_store.leasing.workers import Replaced, Worker, Workers

from services.conversation_store.tests.support import start_command

NOW = 1_800_000_000 * SECOND


def _leased(worker_id: str = "w") -> Run:
    run = start_command().decide(Loaded(), NOW).result.run
    return granted(run, worker_id, SECOND, NOW)


def _connected(places: int = 2) -> tuple[Workers, Worker]:
    workers = Workers()
    worker = Worker("w", places)
    workers.add(worker)
    return workers, worker


def _hear(workers: Workers, *runs: Run) -> bool:
    return workers.hear_runs([ChangedRun.of(run) for run in runs])


def test_a_commit_frees_its_place_and_the_next_grant_takes_it() -> None:
    workers, worker = _connected()
    run = _leased()
    assert not _hear(workers, run)
    assert workers.demand() == {"w": 1}
    committed = turn_closed(replace(run, status=RunStatus.RUNNABLE), 1)
    _hear(workers, granted(committed, "w", SECOND, NOW))
    assert workers.demand() == {"w": 1}
    assert workers.holder(run.run_id, run.fence) is None
    assert workers.holder(run.run_id, run.fence + 1) is worker
    assert _hear(workers, replace(committed, fence=run.fence + 1))
    assert workers.demand() == {"w": 2}
    assert worker.outbox.empty()


def test_a_grant_on_its_way_survives_a_renewal_that_does_not_know_of_it() -> None:
    workers, worker = _connected()
    run = _leased()
    worker.renewing()
    _hear(workers, run)
    worker.holds([])
    assert worker.held == {run.run_id: run.fence}
    worker.renewing()
    worker.holds([])
    assert not worker.held


def test_a_turn_that_ends_during_a_renewal_stays_ended() -> None:
    workers, worker = _connected()
    run = _leased()
    _hear(workers, run)
    worker.renewing()
    _hear(workers, turn_closed(replace(run, status=RunStatus.COMPLETED), 1))
    worker.holds([(run.run_id, run.fence)])
    assert worker.free == 2


def test_an_expired_lease_is_told_to_the_worker_that_still_listens() -> None:
    workers, worker = _connected()
    run = _leased()
    _hear(workers, run)
    assert _hear(workers, runnable(run, NOW))
    lost = worker.outbox.get_nowait()
    assert (lost.run_id, lost.reason) == (run.run_id, "expired")  # type: ignore[union-attr]  # a LostLease


def test_a_worker_that_let_a_lease_run_out_gets_nothing_until_it_speaks() -> None:
    workers, worker = _connected()
    run = _leased()
    _hear(workers, run)
    _hear(workers, runnable(run, NOW))
    assert workers.demand() == {}
    workers.heard(worker)
    assert workers.demand() == {"w": 2}


def test_a_worker_that_is_silent_gets_nothing_until_it_speaks() -> None:
    now = 100.0
    workers = Workers(silence=2.5, clock=lambda: now)
    worker = Worker("w", 2, heard_at=now)
    workers.add(worker)
    now = 102.0
    assert workers.demand() == {"w": 2}
    now = 103.0
    assert workers.demand() == {}
    workers.heard(worker)
    assert workers.demand() == {"w": 2}


def test_a_newer_stream_of_the_same_worker_replaces_the_older() -> None:
    workers, older = _connected()
    newer = Worker("w", 1)
    workers.add(newer)
    assert isinstance(older.outbox.get_nowait(), Replaced)
    assert not workers.remove(older)
    assert workers.get("w") is newer
    assert workers.remove(newer)


def test_what_another_replica_granted_before_lowers_nothing() -> None:
    workers, worker = _connected()
    older = _leased()
    newer = granted(turn_closed(older, 1), "w", SECOND, NOW)
    _hear(workers, newer)
    _hear(workers, older)
    assert worker.held == {newer.run_id: newer.fence}
    raised = RaisedFence("acme", newer.conversation_id, newer.run_id, newer.fence, "late", NOW, "w")
    workers.hear_fences([raised])
    assert worker.held == {newer.run_id: newer.fence}
    assert worker.outbox.empty()
    workers.hear_fences([replace(raised, fence=newer.fence + 1)])
    assert worker.held == {}
    assert not worker.outbox.empty()
