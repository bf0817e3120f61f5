"""Rules that need no database to be seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agentmesh.common.v1 import errors_pb2, options_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb
from agentmesh.conversation_store.v1 import turn_service_pb2
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.codec.stream_items import events_response
from agentmesh_conversation_store.codec.tokens import binding, resume_token, resumed_sequence
from agentmesh_conversation_store.domain import model
from agentmesh_conversation_store.domain.access import Access
from agentmesh_conversation_store.domain.attempts import MAX_BACK_OFF, Retries
from agentmesh_conversation_store.domain.changes import Loaded
from agentmesh_conversation_store.domain.model import SECOND, RunStatus, Step, StepKind, StepState
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.runs import deadline_of
from agentmesh_conversation_store.domain.turns import CommitTurn
from agentmesh_conversation_store.domain.usage import NO_USAGE, Budget, Usage
from agentmesh_conversation_store.servicers.rejections import as_mesh_error
from agentmesh_conversation_store.storage.encoding import encoded
from agentmesh_conversation_store.storage.sql.tables import COMMITTED, RUNS, STEPS
from meshkit.errors import MeshError
from meshkit.roles import Role

from services.conversation_store.tests.support import start_command

NOW = 1_800_000_000 * SECOND


@pytest.mark.parametrize(
    ("enum", "contract", "prefix"),
    [
        (model.RunStatus, conversation_pb2.RunStatus, "RUN_STATUS_"),
        (model.ConversationStatus, conversation_pb2.ConversationStatus, "CONVERSATION_STATUS_"),
        (model.EndReason, conversation_pb2.RunEndReason, "RUN_END_REASON_"),
        (model.WaitKind, conversation_pb2.WaitKind, "WAIT_KIND_"),
        (model.StepKind, turn_service_pb2.StepKind, "STEP_KIND_"),
        (model.StepState, turn_service_pb2.StepState, "STEP_STATE_"),
        (model.Origin, event_pb2.EventOrigin, "EVENT_ORIGIN_"),
        (model.Visibility, conversation_pb2.ConversationVisibility, "CONVERSATION_VISIBILITY_"),
        (Access, conversation_pb2.ConversationAccess, "CONVERSATION_ACCESS_"),
        (Role, options_pb2.Role, "ROLE_"),
    ],
)
def test_enums_equal_those_of_the_contracts(enum: type, contract: object, prefix: str) -> None:
    ours = {member.name: int(member) for member in enum}  # type: ignore[attr-defined]  # an enum
    theirs = {name.removeprefix(prefix): n for name, n in contract.items()}  # type: ignore[attr-defined]  # an enum
    theirs = {("NONE" if n == 0 else name): n for name, n in theirs.items()}
    assert {name: number for name, number in theirs.items() if number or "NONE" in ours} == ours


def test_every_reason_is_one_of_the_contracts() -> None:
    for reason in Reason:
        rejection = Rejection(reason, "no", kind="run", name="r")
        assert as_mesh_error(rejection).reason_name == reason.value
        assert f"ERROR_REASON_{reason.value}" in errors_pb2.ErrorReason.keys()  # noqa: SIM118 - an enum


def test_usage_adds_and_subtracts() -> None:
    one = Usage(input_tokens=3, output_tokens=1, cost_micros=5)
    assert one.plus(one).tokens == 8
    assert one.plus(Usage(estimated=True)).estimated
    assert one.minus(Usage(input_tokens=5)) == Usage(output_tokens=1, cost_micros=5)
    assert one.plus(NO_USAGE) is one


def test_back_off_doubles_up_to_a_minute() -> None:
    retries = Retries(5, 5, first_delay=SECOND)
    assert [retries.delay(n) // SECOND for n in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert retries.delay(100) == MAX_BACK_OFF


def test_the_earlier_limit_is_the_deadline() -> None:
    assert deadline_of(NOW, 5, 3) == NOW + 3
    assert deadline_of(NOW, 5, None) == NOW + 5
    assert deadline_of(NOW, None, None) is None


def _granted() -> tuple[Loaded, CommitTurn]:
    view = start_command(max_rounds=3).decide(Loaded(), NOW).result
    run = replace(view.run, status=RunStatus.LEASED, fence=1, lease_worker="w")
    loaded = Loaded(view.conversation, view.facts, {run.run_id: run})
    command = CommitTurn(run.tenant, run.conversation_id, run.run_id, 1, 1, {}, RunStatus.RUNNABLE)
    return loaded, command


def test_deciding_is_pure() -> None:
    loaded, command = _granted()
    assert command.decide(loaded, NOW) == command.decide(loaded, NOW)
    assert next(iter(loaded.runs.values())).turn == 0


def test_a_commit_reads_no_further_than_the_inbox() -> None:
    loaded, command = _granted()
    changes = replace(command, last_input_sequence=10_000).decide(loaded, NOW).changes
    assert changes.runs[0].inbox_read == 3


def test_a_turn_budget_ends_the_run() -> None:
    loaded, command = _granted()
    run = replace(next(iter(loaded.runs.values())), budget=Budget(max_turns=1))
    decision = command.decide(replace(loaded, runs={run.run_id: run}), NOW)
    assert decision.result.status is RunStatus.FAILED
    assert decision.changes.runs[0].end_reason is model.EndReason.BUDGET


def test_rows_come_back_as_they_were() -> None:
    view = start_command(budget=Budget(max_tokens=5), timeout=SECOND).decide(Loaded(), NOW).result
    run = replace(
        view.run,
        usage=Usage(1, 2, 3, 4, 5, 6, 7, 8, estimated=True),
        turn_messages=("ä", "b"),
        status=RunStatus.WAITING,
    )
    assert RUNS.value(RUNS.row(run)) == run
    step = Step("r", 1, "k", StepKind.TOOL, b"d", 1, "a", record={"result": "x"})
    assert STEPS.value(STEPS.row(step)) == step
    assert step.state_for(1) is StepState.CLAIMED
    assert step.state_for(2) is StepState.ORPHANED
    committed = replace(
        model.CommittedTurn("r", 1, 1, {"a": "b"}, RunStatus.FAILED, 9, "c", ""), discarded=True
    )
    assert COMMITTED.value(COMMITTED.row(committed)) == committed


def test_put_together_bytes_are_the_message_they_stand_for() -> None:
    changes = start_command().decide(Loaded(), NOW).changes
    events = [encoded(event, ProtobufEvents()) for event in changes.events]
    parsed = store_pb.SubscribeConversationResponse.FromString(events_response(events, "token"))
    expected = store_pb.SubscribeConversationResponse()
    expected.item.resume_token = "token"
    expected.item.events.events.extend(event_pb2.Event.FromString(e.data) for e in events)
    assert parsed == expected


def test_resume_tokens_are_bound() -> None:
    mine = binding("acme", "conv_1")
    assert resumed_sequence(resume_token(mine, 7), mine) == 7
    for other in (binding("other", "conv_1"), binding("acme", "conv_2")):
        with pytest.raises(MeshError):
            resumed_sequence(resume_token(other, 7), mine)
