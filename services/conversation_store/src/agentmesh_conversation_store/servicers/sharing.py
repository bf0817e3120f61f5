"""With whom conversations are shared, as it is asked for."""

from __future__ import annotations

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as pb
from meshkit.context import current_principal
from meshkit.errors import MeshError

from agentmesh_conversation_store.codec import tokens
from agentmesh_conversation_store.codec.values import timestamp
from agentmesh_conversation_store.domain.access import Access, Grant, Grantee
from agentmesh_conversation_store.domain.sharing import (
    MOST_GRANTS,
    ShareConversation,
    UnshareConversation,
    grantee_of,
)
from agentmesh_conversation_store.storage.interface import Storage

from .admittance import by_caller, require_access
from .repeatable import carry_out

_GRANTS_A_PAGE = 100


async def share(
    storage: Storage, request: pb.ShareConversationRequest
) -> pb.ShareConversationResponse:
    """Lets somebody read or take part."""
    principal = current_principal()
    grantee = grantee_of(request.subject, request.role)
    await require_access(storage, request.conversation_id, Access.SHARE)
    # Nobody counts to the last one under a lock: the bound is there so that pages stay short.
    kept = await storage.grants(principal.tenant, request.conversation_id, "", MOST_GRANTS)
    if len(kept) >= MOST_GRANTS and all(grant.grantee != grantee.key for grant in kept):
        raise MeshError.invalid("subject", f"a conversation has at most {MOST_GRANTS} grants")
    command = ShareConversation(
        principal.tenant,
        request.conversation_id,
        grantee,
        Access(request.access or Access.READ),
        principal.subject,
    )
    return await carry_out(
        storage,
        by_caller(command, Access.SHARE),
        principal.tenant,
        request,
        pb.ShareConversationResponse,
        lambda grant: pb.ShareConversationResponse(grant=grant_message(grant)),
    )


async def unshare(
    storage: Storage, request: pb.UnshareConversationRequest
) -> pb.UnshareConversationResponse:
    """Takes a grant back."""
    tenant = current_principal().tenant
    grantee = grantee_of(request.subject, request.role)
    command = UnshareConversation(tenant, request.conversation_id, grantee)
    return await carry_out(
        storage,
        by_caller(command, Access.SHARE),
        tenant,
        request,
        pb.UnshareConversationResponse,
        lambda _: pb.UnshareConversationResponse(),
    )


async def page(storage: Storage, request: pb.ListGrantsRequest) -> pb.ListGrantsResponse:
    """A page of grants, for those who may change them."""
    tenant, name = current_principal().tenant, request.conversation_id
    await require_access(storage, name, Access.SHARE)
    await storage.conversation(tenant, name)
    after = ""
    if request.page_token:
        (after,) = tokens.page_position(request.page_token, "grants", str)
    size = request.page_size or _GRANTS_A_PAGE
    found = await storage.grants(tenant, name, after, size + 1)
    more = len(found) > size
    return pb.ListGrantsResponse(
        grants=[grant_message(grant) for grant in found[:size]],
        next_page_token=tokens.page_token("grants", found[size - 1].grantee) if more else "",
    )


async def check(storage: Storage, request: pb.CheckAccessRequest) -> pb.CheckAccessResponse:
    """What the caller may do; also for those who may do everything only in what exists."""
    tenant, name = current_principal().tenant, request.conversation_id
    access = await require_access(storage, name, Access(request.needed or Access.READ))
    if access is Access.SHARE:
        await storage.conversation(tenant, name)
    return pb.CheckAccessResponse(access=conversation_pb2.ConversationAccess.ValueType(access))


def grant_message(grant: Grant) -> conversation_pb2.Grant:
    """A grant as it is shown."""
    grantee = Grantee.of_key(grant.grantee)
    return conversation_pb2.Grant(
        subject=grantee.subject,
        role=options_pb2.Role.ValueType(grantee.role or 0),
        access=conversation_pb2.ConversationAccess.ValueType(grant.access),
        granted_by=grant.granted_by,
        granted_at=timestamp(grant.granted_at),
    )
