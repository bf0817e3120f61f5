"""ApprovalService: what waits for a person."""

from __future__ import annotations

from agentmesh.conversation_store.v1 import approval_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import approval_service_pb2 as pb2

from agentmesh_gateway.idempotency.recalling import Recalls
from agentmesh_gateway.servicers.context import Context
from agentmesh_gateway.upstream import Upstream

_CONTEXT = 20


class ApprovalServicer:
    """All of the contract is served; the store decides, knowing the caller."""

    def __init__(self, upstream: Upstream, recalls: Recalls) -> None:
        self._store = upstream.approvals
        self._recalls = recalls

    async def list_approvals(
        self, request: pb2.ListApprovalsRequest, context: Context
    ) -> pb2.ListApprovalsResponse:
        """A page, oldest first."""
        page = await self._store.ListApprovals(
            store_pb2.ListApprovalsRequest(
                conversation_id=request.conversation_id,
                status=request.status,
                page_size=request.page_size,
                page_token=request.page_token,
            )
        )
        return pb2.ListApprovalsResponse(
            approvals=page.approvals, next_page_token=page.next_page_token
        )

    async def get_approval(
        self, request: pb2.GetApprovalRequest, context: Context
    ) -> pb2.GetApprovalResponse:
        """One approval, with what led to it."""
        wanted = request.context_messages if request.HasField("context_messages") else _CONTEXT
        found = await self._store.GetApproval(
            store_pb2.GetApprovalRequest(approval_id=request.approval_id, context_messages=wanted)
        )
        return pb2.GetApprovalResponse(approval=found.approval, context=found.context)

    async def resolve_approval(
        self, request: pb2.ResolveApprovalRequest, context: Context
    ) -> pb2.ResolveApprovalResponse:
        """Decides or answers."""
        wanted = store_pb2.ResolveApprovalRequest(
            request_id=request.request_id,
            approval_id=request.approval_id,
            status=request.decision,
            comment=request.comment,
            edited_arguments_json=request.edited_arguments_json,
        )
        resolved = await self._recalls.or_answered(
            request, store_pb2.ResolveApprovalResponse, lambda: self._store.ResolveApproval(wanted)
        )
        return pb2.ResolveApprovalResponse(approval=resolved.approval)
