"""Approvals, children and timers against a model, in whatever order things happen.

The model knows for each run what it waits for and what lies unread in its inbox; the storage must
agree after every step, and the log must tell the same story.
"""

from __future__ import annotations

from typing import TypeVar

import hypothesis.strategies as st
import pytest
from agentmesh.conversation.v1 import event_pb2
from agentmesh_conversation_store.domain.approvals import ApprovalStatus
from agentmesh_conversation_store.domain.approving import ResolveApproval
from agentmesh_conversation_store.domain.attempts import Retries, Tick
from agentmesh_conversation_store.domain.children import ChildRun
from agentmesh_conversation_store.domain.conversations import CancelConversation
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Run,
    RunStatus,
    WaitKind,
)
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.suspending import SuspendTurn
from agentmesh_conversation_store.domain.turns import CommitTurn, TurnOutcome
from agentmesh_conversation_store.domain.usage import Budget
from agentmesh_conversation_store.storage.interface import ApprovalQuery
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from meshkit.roles import Role

from services.conversation_store.tests.machines import OnPostgres, StorageMachine
from services.conversation_store.tests.model_run import ModelRun
from services.conversation_store.tests.support import (
    asks_event,
    fresh,
    start_command,
)

T = TypeVar("T")
TENANT = "acme"
RETRIES = Retries(3, 3)
LONG = 10_000 * SECOND
COLOURS = st.integers(0, 5)


class WaitingMachine(StorageMachine):
    """One worker and one person on a few conversations."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, ModelRun] = {}
        self.roots: dict[str, ModelRun] = {}

    @initialize()
    def open(self) -> None:
        self.open_storage()
        for _ in range(2):
            self.start()

    def add(self, run_id: str, parent: ModelRun | None = None) -> ModelRun:
        """A run that came into being."""
        self.runs[run_id] = ModelRun(run_id, parent)
        return self.runs[run_id]

    @property
    def at_work(self) -> list[ModelRun]:
        """Those whose turn was granted."""
        return [run for run in self.runs.values() if run.leased is not None]

    @property
    def ready(self) -> list[ModelRun]:
        """Those that wait for a worker."""
        return [
            run
            for run in self.runs.values()
            if not run.ended and run.leased is None and run.waits is None
        ]

    def worked(self, which: int) -> ModelRun:
        """One whose turn was granted, now if need be."""
        if not self.at_work:
            self.grant()
        return _pick(self.at_work, which)

    @property
    def asked(self) -> list[tuple[ModelRun, str]]:
        """What waits for the person."""
        return [(run, name) for run in self.runs.values() for name in run.pending]

    def start(self) -> None:
        """Another conversation."""
        view = self.go(self.storage.execute(start_command(TENANT, max_rounds=1000)))
        self.roots[view.conversation.conversation_id] = self.add(view.run.run_id)

    @rule()
    def grant(self) -> None:
        ready = {run.run_id for run in self.ready}
        granted = self.go(self.storage.grant({"w": 100}, LONG))
        assert {run.run_id for run in granted} == ready
        for turn in self.go(self.storage.granted_turns(granted, 10**9)):
            model = self.runs[turn.run.run_id]
            model.leased = turn.run
            model.seen = len(model.unread)
            assert [event.kind for event in turn.inputs] == model.unread
            assert [asked.approval_id for asked in turn.approvals] == model.within
            assert {child.run_id for child in turn.children} == {p.run_id for p in model.parts}
            for asked in turn.approvals:
                pending = asked.status is ApprovalStatus.PENDING
                assert pending == (asked.approval_id in model.pending)

    def commit(self, model: ModelRun, status: RunStatus, **fields: object) -> TurnOutcome:
        """Commits a turn that read everything that was there when it was granted."""
        run = model.leased
        assert run is not None
        command = CommitTurn(
            TENANT,
            run.conversation_id,
            run.run_id,
            run.fence,
            run.turn + 1,
            {"status": str(int(status))},
            status,
            last_input_sequence=run.inbox_head,
            successor_run_id=fresh("run"),
            **fields,  # type: ignore[arg-type]  # the tests' own names
        )
        outcome = self.go(self.storage.execute(command))
        assert self.go(self.storage.execute(command)) == outcome
        model.leased = None
        del model.unread[: model.seen]
        for name in model.within:
            model.pending.pop(name, None)
        for part in model.parts:
            part.end()
        model.within, model.parts = [], []
        return outcome

    @precondition(lambda self: self.at_work or self.ready)
    @rule(
        which=COLOURS,
        delays=st.lists(st.sampled_from([2, 50]), max_size=2),
        count=st.sampled_from([0, 1]),
    )
    def suspend(self, which: int, delays: list[int], count: int) -> None:
        """In the middle of a turn: nothing is read, and what comes of it is nothing to read."""
        model = self.worked(which)
        run = _of(model)
        if not delays and (not count or len(self.runs) >= 8):
            return
        parts = [_child(f"part{len(model.parts)}")] if count and len(self.runs) < 8 else []
        asked = {fresh("appr"): self.clock.now + delay * SECOND for delay in delays}
        command = SuspendTurn(
            TENANT,
            run.conversation_id,
            run.run_id,
            run.fence,
            run.turn + 1,
            fresh("digest"),
            WaitKind.APPROVAL if asked else WaitKind.CHILDREN,
            events=[asks_event(name, until) for name, until in asked.items()],
            children=parts,
        )
        outcome = self.go(self.storage.execute(command))
        assert self.go(self.storage.execute(command)) == outcome
        model.leased, model.wake_at = None, None
        model.pending |= asked
        model.within += asked
        for run_id in outcome.child_run_ids:
            part = self.add(run_id, model)
            part.in_turn = True
            model.parts.append(part)
            model.children.append(part)
        model.waits = command.waiting_for

    @precondition(lambda self: self.at_work or self.ready)
    @rule(which=COLOURS, delays=st.lists(st.sampled_from([2, 50]), min_size=1, max_size=3))
    def ask(self, which: int, delays: list[int]) -> None:
        model = self.worked(which)
        asked = {fresh("appr"): self.clock.now + delay * SECOND for delay in delays}
        self.commit(
            model,
            RunStatus.WAITING,
            waiting_for=WaitKind.APPROVAL,
            events=[asks_event(name, until) for name, until in asked.items()],
        )
        model.pending |= asked
        model.waits = WaitKind.APPROVAL

    @precondition(lambda self: (self.at_work or self.ready) and len(self.runs) < 8)
    @rule(which=COLOURS, count=st.sampled_from([1, 2]), timed=st.booleans())
    def delegate(self, which: int, count: int, timed: bool) -> None:
        model = self.worked(which)
        run = _of(model)
        names = [f"stage{number}" for number in range(count)]
        model.wake_at = self.clock.now + 20 * SECOND if timed else None
        outcome = self.commit(
            model,
            RunStatus.WAITING,
            waiting_for=WaitKind.CHILDREN,
            wake_at=model.wake_at,
            children=[_child(name) for name in names],
        )
        view = self.go(self.storage.conversation(TENANT, run.conversation_id))
        assert view.run.run_id == self.roots[run.conversation_id].run_id
        assert len(outcome.child_run_ids) == count
        model.children += [self.add(run_id, model) for run_id in outcome.child_run_ids]
        model.waits = WaitKind.CHILDREN

    @precondition(lambda self: self.at_work or self.ready)
    @rule(which=COLOURS, delay=st.sampled_from([-5, 10]))
    def sleep(self, which: int, delay: int) -> None:
        model = self.worked(which)
        model.wake_at = self.clock.now + delay * SECOND
        self.commit(model, RunStatus.WAITING, waiting_for=WaitKind.TIMER, wake_at=model.wake_at)
        model.waits = WaitKind.TIMER

    @precondition(lambda self: self.at_work or self.ready)
    @rule(which=COLOURS)
    def go_on(self, which: int) -> None:
        self.commit(self.worked(which), RunStatus.RUNNABLE)

    @precondition(lambda self: self.at_work or self.ready)
    @rule(which=COLOURS)
    def finish(self, which: int) -> None:
        """Children first. The end does not come while something is unread."""
        model = self.worked(which)
        model = _pick([run for run in self.at_work if run.parent] or [model], which)
        self.commit(model, RunStatus.COMPLETED)
        if not model.unread:
            model.end()
            if model.parent is not None:
                model.parent.lose(model)

    @precondition(lambda self: self.asked)
    @rule(which=COLOURS, status=st.sampled_from([ApprovalStatus.APPROVED, ApprovalStatus.REJECTED]))
    def decide(self, which: int, status: ApprovalStatus) -> None:
        model, name = _pick(self.asked, which)
        approval = self.go(self.storage.approval(TENANT, name))
        assert approval is not None
        command = ResolveApproval(
            TENANT,
            approval.conversation_id,
            approval.run_id,
            name,
            status,
            "",
            "",
            "alice",
            Role.OPERATOR,
        )
        if model.pending[name] <= self.clock.now:
            with pytest.raises(Rejection) as refused:
                self.go(self.storage.execute(command))
            assert refused.value.reason is Reason.ALREADY_DECIDED
            return
        assert self.go(self.storage.execute(command)).status is status
        assert self.go(self.storage.execute(command)).status is status
        model.settle(name, self.clock.now)

    @rule(which=COLOURS, sure=st.integers(0, 3))
    def cancel(self, which: int, sure: int) -> None:
        if sure < 3:
            return
        cid = _pick(list(self.roots), which)
        self.go(self.storage.execute(CancelConversation(TENANT, cid, "")))
        self.roots[cid].end()

    @rule(seconds=st.sampled_from([1, 5, 30]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)
        for due in self.go(self.storage.due(expired=True, limit=1000)):
            tick = Tick(due.tenant, due.conversation_id, due.run_id, RETRIES)
            self.go(self.storage.execute(tick))
            self.go(self.storage.execute(tick))
        for model in self.runs.values():
            late = [name for name, until in model.pending.items() if until <= self.clock.now]
            for name in late:
                model.settle(name, self.clock.now)
            timed = model.waits in (WaitKind.TIMER, WaitKind.CHILDREN)
            if timed and model.wake_at is not None and model.wake_at <= self.clock.now:
                model.waits = None

    @invariant()
    def the_storage_agrees(self) -> None:
        query = ApprovalQuery(1000, status=ApprovalStatus.PENDING)
        pending = self.go(self.storage.approvals(TENANT, query)) if self.runs else []
        assert {approval.approval_id for approval in pending} == {name for _, name in self.asked}
        for cid, root in self.roots.items():
            view = self.go(self.storage.conversation(TENANT, cid))
            assert view.run.run_id == root.run_id
            assert view.run.status.ended == root.ended
            assert (view.run.status is RunStatus.WAITING) == (root.waits is not None)
            assert view.run.pending_approvals == len(root.pending)
            self.the_log_is_whole(cid)

    def the_log_is_whole(self, cid: str) -> None:
        """Dense; nothing of a run after its end; no child outlives its parent; what was asked is
        resolved once and not after its run ended."""
        events = self.go(self.storage.events(TENANT, cid, 0, 100_000, 10**9))
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        ended: set[str] = set()
        open_requests: dict[str, str] = {}
        for stored in events:
            event = event_pb2.Event.FromString(stored.data)
            assert event.run_id not in ended
            if event.HasField("approval_requested"):
                open_requests[event.approval_requested.approval_id] = event.run_id
            elif event.HasField("approval_resolved"):
                assert open_requests.pop(event.approval_resolved.approval_id) == event.run_id
            elif event.HasField("run_ended"):
                assert event.run_id not in open_requests.values()
                assert not {child.run_id for child in self.runs[event.run_id].children} - ended
                ended.add(event.run_id)
        for run_id in {event.run_id for event in events if event.run_id}:
            assert (run_id in ended) == self.runs[run_id].ended


def _of(model: ModelRun) -> Run:
    assert model.leased is not None
    return model.leased


def _pick(choices: list[T], which: int) -> T:
    return choices[which % len(choices)]


def _child(agent_path: str) -> ChildRun:
    return ChildRun(agent_path, ("digest", b""), "work", fresh("msg"), 1000, Budget())


class PostgresWaitingMachine(OnPostgres, WaitingMachine):
    """The same on Postgres."""


def test_waiting_on_sqlite_is_as_the_model_says() -> None:
    run_state_machine_as_test(WaitingMachine, settings=_SETTINGS)


def test_waiting_on_postgres_is_as_the_model_says(postgres_url: str) -> None:
    PostgresWaitingMachine.url = postgres_url
    fewer = settings(_SETTINGS, max_examples=8)
    run_state_machine_as_test(PostgresWaitingMachine, settings=fewer)


_SETTINGS = settings(
    max_examples=30,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
