"""ApprovalStoreService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

from agentmesh.conversation_store.v1 import approval_store_service_pb2 as pb
from agentmesh.conversation_store.v1 import approval_store_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import current_principal
from meshkit.roles import Role

from agentmesh_conversation_store.codec import tokens
from agentmesh_conversation_store.codec.approvals import approval_message, edited_arguments
from agentmesh_conversation_store.domain.approvals import Approval, ApprovalStatus
from agentmesh_conversation_store.domain.approving import ResolveApproval
from agentmesh_conversation_store.domain.rejections import not_found
from agentmesh_conversation_store.storage.interface import ApprovalQuery, Storage

from .admittance import by_caller, caller
from .event_pages import EventPages
from .rejections import answers_rejections
from .repeatable import carry_out

_APPROVALS_A_PAGE = 100
_PAGE_BYTES = 2 * 1024 * 1024
_READ_AT_ONCE = 50


class ApprovalServicer(pb_grpc.ApprovalStoreServiceServicer):
    """What waits for a person, for the caller's tenant."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._pages = EventPages(storage)

    @answers_rejections
    async def ListApprovals(
        self, request: pb.ListApprovalsRequest, _: ServicerContext
    ) -> pb.ListApprovalsResponse:
        size = request.page_size or _APPROVALS_A_PAGE
        response = pb.ListApprovalsResponse()
        position = _position(request.page_token)
        room = _PAGE_BYTES
        while True:
            limit = min(_READ_AT_ONCE, size - len(response.approvals) + 1)
            query = ApprovalQuery(
                limit,
                after=position,
                conversation_id=request.conversation_id,
                status=ApprovalStatus(request.status) if request.status else None,
                caller=caller(),
            )
            found = await self._storage.approvals(current_principal().tenant, query)
            for approval in found:
                if len(response.approvals) == size or room <= 0:
                    if position is not None:
                        response.next_page_token = tokens.page_token("approvals", *position)
                    return response
                message = approval_message(approval)
                response.approvals.append(message)
                room -= message.ByteSize()
                position = approval.requested_at, approval.approval_id
            if len(found) < limit:
                return response

    @answers_rejections
    async def GetApproval(
        self, request: pb.GetApprovalRequest, _: ServicerContext
    ) -> pb.GetApprovalResponse:
        approval = await self._approval(request.approval_id)
        response = pb.GetApprovalResponse(approval=approval_message(approval))
        if request.context_messages:
            response.context.extend(
                await self._pages.led_to(
                    approval.tenant,
                    approval.conversation_id,
                    approval.requested_sequence,
                    request.context_messages,
                )
            )
        return response

    @answers_rejections
    async def ResolveApproval(
        self, request: pb.ResolveApprovalRequest, _: ServicerContext
    ) -> pb.ResolveApprovalResponse:
        principal = current_principal()
        status = ApprovalStatus(request.status)
        edited = edited_arguments(status, request.edited_arguments_json)
        approval = await self._approval(request.approval_id)
        command = ResolveApproval(
            principal.tenant,
            approval.conversation_id,
            approval.run_id,
            approval.approval_id,
            status,
            request.comment,
            edited,
            principal.subject,
            Role(principal.role),
        )
        return await carry_out(
            self._storage,
            by_caller(command),
            principal.tenant,
            request,
            pb.ResolveApprovalResponse,
            lambda resolved: pb.ResolveApprovalResponse(approval=approval_message(resolved)),
        )

    async def _approval(self, approval_id: str) -> Approval:
        approval = await self._storage.approval(current_principal().tenant, approval_id, caller())
        if approval is None:
            raise not_found("approval", approval_id)
        return approval


def _position(token: str) -> tuple[int, str] | None:
    if not token:
        return None
    requested_at, approval_id = tokens.page_position(token, "approvals", int, str)
    return requested_at, approval_id
