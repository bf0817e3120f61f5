"""What waits for a person: tool calls to decide on, questions to answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import grpc
from agentmesh.conversation.v1 import event_pb2
from agentmesh.gateway.v1 import approval_service_pb2 as pb2
from agentmesh.gateway.v1.approval_service_pb2_grpc import ApprovalServiceStub

from agentmesh_client.models import Approval
from agentmesh_client.transport import Caller

_STATUS = event_pb2.ApprovalStatus


class Approvals:
    """`mesh.approvals`: lists and decides. Deciding needs the role that an approval names."""

    def __init__(self, channel: grpc.aio.Channel, call: Caller) -> None:
        self._stub: Any = ApprovalServiceStub(channel)
        self._call = call

    async def list(
        self, *, status: str = "pending", conversation_id: str = "", page_size: int = 50
    ) -> AsyncIterator[Approval]:
        """Those of a status, of any if it is empty, oldest first; pages are read as needed."""
        request = pb2.ListApprovalsRequest(
            conversation_id=conversation_id,
            page_size=page_size,
        )
        if status:
            request.status = _STATUS.Value(f"APPROVAL_STATUS_{status.upper()}")
        while True:
            page = await self._call(self._stub.ListApprovals, request)
            for raw in page.approvals:
                yield Approval.of(raw)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get(self, approval_id: str, *, context_messages: int = 20) -> Approval:
        """One of them, with as many of the messages that led to it. Raises NotFoundError."""
        request = pb2.GetApprovalRequest(approval_id=approval_id, context_messages=context_messages)
        found = await self._call(self._stub.GetApproval, request)
        return Approval.of(found.approval, found.context)

    async def approve(self, approval_id: str, *, comment: str = "") -> Approval:
        """Lets a call be made as it is, or says yes to a question."""
        return await self._resolve(approval_id, _STATUS.APPROVAL_STATUS_APPROVED, comment)

    async def edit(
        self, approval_id: str, arguments: Mapping[str, Any] | str, *, comment: str = ""
    ) -> Approval:
        """Lets a call be made with these arguments, a JSON object, in place of its own."""
        text = arguments if isinstance(arguments, str) else json.dumps(dict(arguments))
        return await self._resolve(approval_id, _STATUS.APPROVAL_STATUS_EDITED, comment, text)

    async def reject(self, approval_id: str, *, reason: str = "") -> Approval:
        """Keeps a call from being made, or says no to a question; the model is told why."""
        return await self._resolve(approval_id, _STATUS.APPROVAL_STATUS_REJECTED, reason)

    async def answer(self, approval_id: str, text: str) -> Approval:
        """Answers a question."""
        return await self._resolve(approval_id, _STATUS.APPROVAL_STATUS_ANSWERED, text)

    async def _resolve(
        self,
        approval_id: str,
        decision: event_pb2.ApprovalStatus.ValueType,
        comment: str,
        edited: str = "",
    ) -> Approval:
        """The same decision again is harmless; another one raises FailedPreconditionError."""
        request = pb2.ResolveApprovalRequest(
            approval_id=approval_id,
            decision=decision,
            comment=comment,
            edited_arguments_json=edited,
            request_id=uuid4().hex,
        )
        return Approval.of((await self._call(self._stub.ResolveApproval, request)).approval)
