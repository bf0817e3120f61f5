"""WorkspaceService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

from dataclasses import dataclass

from agentmesh.conversation_store.v1 import workspace_service_pb2 as pb
from agentmesh.conversation_store.v1 import workspace_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import current_principal

from agentmesh_conversation_store.codec.workspaces import workspace_change, workspace_message
from agentmesh_conversation_store.domain import workspaces
from agentmesh_conversation_store.domain.access import Access
from agentmesh_conversation_store.storage.interface import Storage

from .admittance import require_access
from .kept_files import KeptFiles
from .rejections import answers_rejections

FULL_NAME = "agentmesh.conversation_store.v1.WorkspaceService"


@dataclass(frozen=True)
class _Place:
    tenant: str
    conversation_id: str


class WorkspaceServicer(pb_grpc.WorkspaceServiceServicer):
    """The files of the caller's conversations."""

    def __init__(self, storage: Storage, kept_files: KeptFiles) -> None:
        self._storage = storage
        self._kept_files = kept_files

    @answers_rejections
    async def GetWorkspace(
        self, request: pb.GetWorkspaceRequest, _: ServicerContext
    ) -> pb.GetWorkspaceResponse:
        tenant = current_principal().tenant
        await require_access(self._storage, request.conversation_id)
        view = await self._storage.conversation(tenant, request.conversation_id)
        conversation = view.conversation
        address = conversation.runner_address
        return pb.GetWorkspaceResponse(
            workspace=workspace_message(workspaces.now_of(conversation)),
            earlier=[workspace_message(state) for state in workspaces.earlier_of(conversation)],
            runner_address="" if address == workspaces.UNNAMED else address,
        )

    @answers_rejections
    async def SaveWorkspace(
        self, request: pb.SaveWorkspaceRequest, _: ServicerContext
    ) -> pb.SaveWorkspaceResponse:
        place = _Place(current_principal().tenant, request.conversation_id)
        await require_access(self._storage, request.conversation_id, Access.WRITE)
        await self._kept_files.require(place, "change", request.change)
        for number, earlier in enumerate(request.earlier):
            await self._kept_files.require(place, f"earlier[{number}]", earlier)
        state = await self._storage.execute(
            workspaces.SaveWorkspace(
                place.tenant,
                place.conversation_id,
                workspace_change(request.change),
                [workspace_change(earlier) for earlier in request.earlier],
            )
        )
        return pb.SaveWorkspaceResponse(workspace=workspace_message(state))
