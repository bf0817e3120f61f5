"""Forking, deleting and updating, as they are asked for."""

from __future__ import annotations

from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as pb
from meshkit.context import current_principal
from meshkit.errors import MeshError
from meshkit.identity import Principal
from meshkit.ids import new_id
from meshkit.roles import Role, includes

from agentmesh_conversation_store.codec import values
from agentmesh_conversation_store.codec.resources import conversation_message
from agentmesh_conversation_store.domain.access import Access
from agentmesh_conversation_store.domain.forks import Fork
from agentmesh_conversation_store.domain.history import DeleteConversation
from agentmesh_conversation_store.domain.model import ConversationView, Visibility
from agentmesh_conversation_store.domain.updating import UpdateConversation
from agentmesh_conversation_store.storage.interface import Storage

from .admittance import by_caller, require_access, visibility_of
from .repeatable import carry_out, request_record


async def fork(
    storage: Storage, request: pb.ForkConversationRequest
) -> pb.ForkConversationResponse:
    """A new conversation; the same one for the same request id."""
    principal = current_principal()
    await require_access(storage, request.conversation_id)
    wanted = Fork(
        principal.tenant,
        request.conversation_id,
        request.at_sequence,
        conversation_id=new_id("conv"),
        run_id=new_id("run"),
        principal=principal.subject,
        visibility=await visibility_of(storage),
    )
    record = None
    if request.request_id:
        method = pb.ForkConversationResponse.DESCRIPTOR.full_name
        record = request_record(principal.tenant, method, request, _forked)
    made = await storage.fork(wanted, record)
    if isinstance(made, bytes):
        return pb.ForkConversationResponse.FromString(made)
    return _forked(made)


def _forked(view: ConversationView) -> pb.ForkConversationResponse:
    return pb.ForkConversationResponse(conversation=conversation_message(view))


async def delete(
    storage: Storage, request: pb.DeleteConversationRequest
) -> pb.DeleteConversationResponse:
    """Gone when this returns; what it kept goes later."""
    tenant = current_principal().tenant
    return await carry_out(
        storage,
        DeleteConversation(tenant, request.conversation_id),
        tenant,
        request,
        pb.DeleteConversationResponse,
        lambda _: pb.DeleteConversationResponse(),
    )


async def update(
    storage: Storage, request: pb.UpdateConversationRequest
) -> pb.UpdateConversationResponse:
    """Changes what is set."""
    principal = current_principal()
    _require_may_hold(request, principal)
    given = request.HasField
    command = UpdateConversation(
        principal.tenant,
        request.conversation_id,
        labels=dict(request.labels) if request.set_labels else None,
        max_rounds=request.max_rounds if given("max_rounds") else None,
        budget=values.budget(request.budget) if given("budget") else None,
        etag=request.etag,
        legal_hold=request.legal_hold if given("legal_hold") else None,
        retention_age=values.micros(request.retention_age) if given("retention_age") else None,
        retention_events=request.retention_events if given("retention_events") else None,
        visibility=Visibility(request.visibility) if request.visibility else None,
    )
    return await carry_out(
        storage,
        by_caller(command, Access.SHARE if request.visibility else Access.WRITE),
        principal.tenant,
        request,
        pb.UpdateConversationResponse,
        lambda view: pb.UpdateConversationResponse(conversation=conversation_message(view)),
    )


def _require_may_hold(request: pb.UpdateConversationRequest, principal: Principal) -> None:
    """Who may delete may protect from it, and nobody else: retention deletes as well."""
    given = request.HasField
    changes = given("legal_hold") or given("retention_age") or given("retention_events")
    if changes and not includes(principal.role, Role.ADMIN):
        raise MeshError.role_too_low("admin", Role(principal.role).name.lower())
