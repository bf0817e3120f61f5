"""What the caller of the current call may do."""

from __future__ import annotations

from agentmesh.conversation.v1 import conversation_pb2
from meshkit.context import current_principal
from meshkit.errors import MeshError
from meshkit.roles import Role, includes, role_name

from agentmesh_conversation_store.domain import access
from agentmesh_conversation_store.domain.access import Access, Caller
from agentmesh_conversation_store.domain.changes import Command
from agentmesh_conversation_store.domain.guarding import R, guarded
from agentmesh_conversation_store.domain.model import Visibility
from agentmesh_conversation_store.storage.interface import Storage

_LONGEST_SUBJECT = 512
_UNSAID = conversation_pb2.CONVERSATION_VISIBILITY_UNSPECIFIED


def caller() -> Caller:
    """Who calls, for the store's rules."""
    principal = current_principal()
    return Caller(principal.subject, principal.role)


def by_caller(command: Command[R], needed: Access = Access.WRITE) -> Command[R]:
    """The command, as the caller may give it."""
    return guarded(command, caller(), needed)


async def require_access(
    storage: Storage, conversation_id: str, needed: Access = Access.READ
) -> Access:
    """What the caller may do. NOT_FOUND if that is nothing, PERMISSION_DENIED if it is not enough.

    For those who may do everything nothing is asked: whether it exists shows when it is read.
    """
    who = caller()
    if who.sees_all:
        return Access.SHARE
    found = await storage.access(current_principal().tenant, conversation_id, who)
    access.require(conversation_id, found, needed)
    return found or Access.READ


async def visibility_of(
    storage: Storage,
    wanted: conversation_pb2.ConversationVisibility.ValueType = _UNSAID,
) -> Visibility:
    """As it is wanted, else as the tenant's policy says."""
    if wanted:
        return Visibility(wanted)
    return (await storage.tenant_policy(current_principal().tenant)).default_visibility


def owner_of(wanted: str) -> str:
    """Whose a new conversation is. PERMISSION_DENIED for users who name another."""
    principal = current_principal()
    if not wanted or wanted == principal.subject:
        return principal.subject
    if len(wanted.encode()) > _LONGEST_SUBJECT or wanted != wanted.strip():
        raise MeshError.invalid("owner", "is no subject")
    if not wanted.isprintable():
        raise MeshError.invalid("owner", "has characters that nobody can see")
    named = includes(principal.role, Role.OPERATOR) or includes(principal.role, Role.SERVICE)
    if not named:
        raise MeshError.role_too_low("service", role_name(principal.role))
    return wanted
