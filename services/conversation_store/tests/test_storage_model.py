"""Log, inbox, fence and lease against a model, in whatever order things happen."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from agentmesh.conversation.v1 import event_pb2, message_pb2
from agentmesh_conversation_store.domain.attempts import ReleaseTurn, Retries, Tick
from agentmesh_conversation_store.domain.conversations import CancelConversation, SendMessage
from agentmesh_conversation_store.domain.events import UserMessage, WorkerEvent
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Origin,
    Run,
    RunStatus,
    StepKind,
    Strategy,
)
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.steps import BeginStep, RecordStep
from agentmesh_conversation_store.domain.turns import CommitTurn
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.conversation_store.tests.machines import OnPostgres, StorageMachine
from services.conversation_store.tests.support import (
    DIGEST,
    fresh,
    start_command,
)
from services.conversation_store.tests.work import release

LEASE = 5 * SECOND
RETRIES = Retries(max_failures=3, max_losses=3)


@dataclass
class ModelRun:
    """What is true of a run, as a reader of the contracts would expect."""

    fence: int = 0
    turn: int = 0
    leased: bool = False
    ended: bool = False
    waits: bool = False
    unread: list[int] = field(default_factory=list)
    recorded: set[str] = field(default_factory=set)


class StoreMachine(StorageMachine):
    """Operations of people, workers and time on one storage."""

    conversations = Bundle("conversations")
    grants = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, ModelRun] = {}
        self.current: dict[str, str] = {}
        self.logs: dict[str, int] = {}

    @initialize()
    def open(self) -> None:
        self.open_storage()

    @rule(target=conversations, tenant=st.sampled_from(["acme", "other"]))
    def start(self, tenant: str) -> tuple[str, str]:
        view = self.go(self.storage.execute(start_command(tenant, max_rounds=1000)))
        cid = view.conversation.conversation_id
        self.runs[view.run.run_id] = ModelRun(unread=[3])
        self.current[cid] = view.run.run_id
        self.logs[cid] = 3
        return tenant, cid

    @rule(
        conversation=conversations,
        strategy=st.sampled_from([Strategy.AFTER_TURN, Strategy.INTERRUPT]),
    )
    def speak(self, conversation: tuple[str, str], strategy: Strategy) -> None:
        tenant, cid = conversation
        body = UserMessage(fresh("msg"), "user", "hi", "alice")
        sent = self.go(
            self.storage.execute(SendMessage(tenant, cid, body, strategy, fresh("run"), ""))
        )
        before = self.runs[self.current[cid]]
        if before.ended:
            assert sent.run_id != self.current[cid]
            self.runs[sent.run_id] = ModelRun(unread=list(before.unread))
            self.current[cid] = sent.run_id
        else:
            assert sent.run_id == self.current[cid]
            if strategy is Strategy.INTERRUPT and (before.leased or before.recorded):
                before.fence += 1
                before.turn += 1
                before.leased = False
                before.recorded.clear()
        assert sent.sequence > self.logs[cid]
        # A run that waited says that it goes on.
        self.logs[cid] = sent.sequence + before.waits
        before.waits = False
        self.runs[sent.run_id].unread.append(sent.sequence)

    @rule(conversation=conversations)
    def cancel(self, conversation: tuple[str, str]) -> None:
        tenant, cid = conversation
        view = self.go(self.storage.execute(CancelConversation(tenant, cid, "")))
        run = self.runs[self.current[cid]]
        assert view.run.status.ended
        if not run.ended:
            run.ended = True
            run.leased = run.waits = False
            run.fence += 1
        self.logs[cid] = view.conversation.head_sequence

    @rule(target=grants, places=st.integers(1, 3))
    def grant(self, places: int) -> Run | None:
        runs = self.go(self.storage.grant({"w": places}, LEASE))
        for run in runs:
            model = self.runs[run.run_id]
            assert not model.leased
            assert not model.ended
            model.leased = True
            model.fence += 1
            assert (run.fence, run.turn) == (model.fence, model.turn)
        for turn in self.go(self.storage.granted_turns(runs, 1 << 20)):
            model = self.runs[turn.run.run_id]
            assert [event.sequence for event in turn.inputs] == model.unread
            assert {step.step_key for step in turn.steps if step.recorded} == model.recorded
        return runs[0] if runs else None

    @precondition(lambda self: self.runs)
    @rule(run=grants, key=st.sampled_from(["a/1", "a/2"]))
    def record(self, run: Run | None, key: str) -> None:
        if run is None:
            return
        model = self.runs[run.run_id]
        begin = BeginStep(
            run.tenant,
            run.conversation_id,
            run.run_id,
            run.fence,
            run.turn + 1,
            key,
            StepKind.MODEL,
            DIGEST,
            f"attempt-{run.fence}",
            take_over=True,
        )
        message_id = f"m-{run.turn + 1}-{key}"
        event = event_pb2.Event(message=message_pb2.Message(message_id=message_id, content=key))
        record = RecordStep(
            run.tenant,
            run.conversation_id,
            run.run_id,
            run.fence,
            run.turn + 1,
            key,
            DIGEST,
            b"r",
            "",
            "",
            {"result": key},
            Origin.RUNTIME,
            [WorkerEvent("message", event, "a", message_id)],
        )
        if not self._allowed(run, begin):
            return
        recorded = self.go(self.storage.execute(record))
        if key not in model.recorded:
            self.logs[run.conversation_id] += 1
            assert recorded.last_sequence == self.logs[run.conversation_id]
        model.recorded.add(key)

    def _allowed(self, run: Run, command: BeginStep | CommitTurn | ReleaseTurn) -> bool:
        """Carries it out; false if it was refused, which the model must agree with."""
        model = self.runs[run.run_id]
        current = (run.fence, run.turn) == (model.fence, model.turn) and not model.ended
        if current:
            self.go(self.storage.execute(command))
            return True
        with pytest.raises(Rejection) as refused:
            self.go(self.storage.execute(command))
        if run.fence != model.fence:
            assert refused.value.reason is Reason.STALE_FENCE
        else:
            assert refused.value.reason is (
                Reason.ALREADY_ENDED if model.ended else Reason.TURN_GAP
            )
        return False

    @rule(
        run=consumes(grants),
        status=st.sampled_from([RunStatus.RUNNABLE, RunStatus.COMPLETED, RunStatus.WAITING]),
        read=st.booleans(),
    )
    def commit(self, run: Run | None, status: RunStatus, read: bool) -> None:
        if run is None:
            return
        model = self.runs[run.run_id]
        through = run.inbox_head if read else 0
        command = CommitTurn(
            run.tenant,
            run.conversation_id,
            run.run_id,
            run.fence,
            run.turn + 1,
            {"status": str(int(status)), "read": str(through)},
            status,
            last_input_sequence=through,
            successor_run_id=fresh("run"),
        )
        if not self._allowed(run, command):
            return
        model.turn += 1
        model.leased = False
        model.recorded.clear()
        model.unread = [sequence for sequence in model.unread if sequence > through]
        model.ended = status is RunStatus.COMPLETED and not model.unread
        again = self.go(self.storage.execute(command))
        self.logs[run.conversation_id] = again.last_sequence
        model.waits = again.status is RunStatus.WAITING
        assert (again.status is RunStatus.COMPLETED) == model.ended
        if status is not RunStatus.COMPLETED:
            assert again.status is (RunStatus.RUNNABLE if model.unread else status)

    @rule(run=consumes(grants))
    def release(self, run: Run | None) -> None:
        if run is None or not self.runs[run.run_id].leased:
            return
        command = release(run, retries=RETRIES)
        if self._allowed(run, command):
            self.runs[run.run_id].leased = False

    @rule(seconds=st.sampled_from([1, 3, 6]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)
        for due in self.go(self.storage.due(expired=True, limit=100)):
            tick = Tick(due.tenant, due.conversation_id, due.run_id, RETRIES)
            after = self.go(self.storage.execute(tick))
            model = self.runs[due.run_id]
            assert model.leased
            model.leased = False
            if after.status is RunStatus.DEAD_LETTER:
                model.ended = True
                model.fence += 1
            head = self.go(self.storage.heads([(due.tenant, due.conversation_id)]))
            self.logs[due.conversation_id] = head[due.tenant, due.conversation_id].sequence

    @invariant()
    def logs_are_dense_and_end_their_runs_once(self) -> None:
        for cid in self.logs:
            tenant = next(t for t in ("acme", "other") if self._exists(t, cid))
            events = self.go(self.storage.events(tenant, cid, 0, 100_000, 10**9))
            assert [event.sequence for event in events] == list(range(1, self.logs[cid] + 1))
            ended: set[str] = set()
            for event in events:
                assert event.run_id not in ended, "an event follows the end of its run"
                if event.kind == "run_ended":
                    ended.add(event.run_id)
                message_ids = [e.message_id for e in events if e.message_id]
            assert len(message_ids) == len(set(message_ids))
            assert (self.current[cid] in ended) == self.runs[self.current[cid]].ended

    def _exists(self, tenant: str, cid: str) -> bool:
        return bool(self.go(self.storage.heads([(tenant, cid)])))


class PostgresStoreMachine(OnPostgres, StoreMachine):
    """The same on Postgres."""


def test_sqlite_behaves_as_the_model_does() -> None:
    run_state_machine_as_test(StoreMachine, settings=_SETTINGS)


def test_postgres_behaves_as_the_model_does(postgres_url: str) -> None:
    PostgresStoreMachine.url = postgres_url
    run_state_machine_as_test(PostgresStoreMachine, settings=_SETTINGS)


_SETTINGS = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
