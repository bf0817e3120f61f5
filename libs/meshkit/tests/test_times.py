"""Times that are none are refused with the field that holds them."""

from __future__ import annotations

import pytest
from agentmesh.catalog.v1.approval_policy_pb2 import ApprovalPolicy
from agentmesh.catalog.v1.team_pb2 import Participant, TeamDefinition
from agentmesh.common.v1.options_pb2 import ROLE_VIEWER
from agentmesh.common.v1.usage_pb2 import Budget
from agentmesh.gateway.v1.admin_service_pb2 import CreateKeyRequest, ListAuditRequest
from agentmesh.gateway.v1.conversation_service_pb2 import StartConversationRequest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from meshkit.errors import MeshError
from meshkit.times import impossible_times
from meshkit.validation import validate

LAST_SECOND = 253_402_300_799


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (ListAuditRequest(from_time=Timestamp(seconds=LAST_SECOND + 1)), "from_time"),
        (ListAuditRequest(to_time=Timestamp(seconds=-62_135_596_801)), "to_time"),
        (ListAuditRequest(to_time=Timestamp(nanos=1_000_000_000)), "to_time"),
        (ListAuditRequest(to_time=Timestamp(nanos=-1)), "to_time"),
        (StartConversationRequest(timeout=Duration(seconds=2**62)), "timeout"),
        (StartConversationRequest(timeout=Duration(seconds=1, nanos=-1)), "timeout"),
        (
            StartConversationRequest(budget=Budget(max_wall_time=Duration(nanos=2**31 - 1))),
            "budget.max_wall_time",
        ),
        # Times, but beyond what calendars hold once they are added to today.
        (
            StartConversationRequest(task="x", timeout=Duration(seconds=8000 * 31_536_000)),
            "timeout",
        ),
        (CreateKeyRequest(role=ROLE_VIEWER, ttl=Duration(seconds=8000 * 31_536_000)), "ttl"),
    ],
)
def test_what_is_no_time_is_refused_where_it_stands(message: Message, field: str) -> None:
    with pytest.raises(MeshError) as caught:
        validate(message)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_times_are_found_in_lists_and_in_types_that_hold_themselves() -> None:
    fine = ApprovalPolicy(expires_after=Duration(seconds=-1, nanos=-1))
    wrong = ApprovalPolicy(expires_after=Duration(seconds=2**60))
    inner = TeamDefinition(approvals=[fine, wrong])
    team = TeamDefinition(participants=[Participant(), Participant(team=inner)])
    assert [violation.field for violation in impossible_times(team)] == [
        "participants[1].team.approvals[1].expires_after"
    ]


def test_the_first_and_the_last_time_pass() -> None:
    first, last = (
        Timestamp(seconds=-62_135_596_800),
        Timestamp(seconds=LAST_SECOND, nanos=10**9 - 1),
    )
    assert impossible_times(ListAuditRequest(from_time=first, to_time=last)) == []
