"""Requests to people, and what they said, between their contracts and the domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1 import event_pb2, message_pb2
from agentmesh.conversation_store.v1 import approval_store_service_pb2 as approvals_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from meshkit.identity import Principal, principal_scope

from agentmesh_agent_runtime.adapters.calls import insist
from agentmesh_agent_runtime.turns.people import PersonNeeded

if TYPE_CHECKING:
    # The generated stubs for asyncio exist for type checkers only.
    from agentmesh.conversation_store.v1.approval_store_service_pb2_grpc import (
        ApprovalStoreServiceAsyncStub,
    )

MOST_BYTES = 2 * 1024 * 1024
"""Of the requests of one suspension; what is more is asked for with the next one."""


def request_events(needed: tuple[PersonNeeded, ...]) -> list[event_pb2.Event]:
    """The events that ask, as many as fit into a message, at least one if there is one."""
    now = datetime.now(UTC)
    events: list[event_pb2.Event] = []
    left = MOST_BYTES
    for one in needed:
        left -= one.size
        if events and left < 0:
            break
        events.append(_event(one, now))
    return events


def _event(needed: PersonNeeded, now: datetime) -> event_pb2.Event:
    requested = event_pb2.ApprovalRequested(
        approval_id=needed.approval_id,
        prompt=needed.prompt,
        role=needed.role,
        approve_on_expiry=needed.approve_on_expiry,
    )
    requested.expires_at.FromDatetime(now + timedelta(seconds=needed.expires_after))
    if needed.call is not None:
        requested.tool_call.CopyFrom(
            message_pb2.ToolCallPart(
                tool_call_id=needed.call.call_id,
                tool=needed.call.tool,
                arguments_json=needed.call.arguments_json,
            )
        )
    if needed.escalate_after is not None and needed.escalate_to is not None:
        requested.escalate_at.FromDatetime(now + timedelta(seconds=needed.escalate_after))
        requested.escalate_to = needed.escalate_to
    return event_pb2.Event(agent=needed.agent, approval_requested=requested)


class OmittedWords:
    """Makes what people said complete where it was too long for a grant."""

    def __init__(self, stub: ApprovalStoreServiceAsyncStub) -> None:
        self._stub = stub

    async def complete(self, grant: turns_pb2.TurnGrant) -> None:
        """Puts the texts where they were left out. Raises what `insist` does."""
        reader = Principal(
            "agent_runtime", grant.tenant, options_pb2.ROLE_OPERATOR, "agent_runtime"
        )
        for asked in grant.approvals:
            if not asked.text_omitted:
                continue
            with principal_scope(reader):
                approval = await insist(partial(self._read, asked.approval_id))
            asked.comment = approval.comment
            asked.edited_arguments_json = approval.edited_arguments_json
            asked.text_omitted = False

    async def _read(self, approval_id: str) -> approvals_pb2.Approval:
        request = approvals_pb2.GetApprovalRequest(approval_id=approval_id)
        return (await self._stub.GetApproval(request)).approval
