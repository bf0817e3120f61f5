"""How conversations are shared with others, and no longer."""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.roles import Role

from .access import SHARED_ROLES, Access, Grant, Grantee
from .changes import Changes, Decision, Loaded, Lookup, Scope
from .model import Conversation, Instant
from .rejections import invalid, not_found

MOST_GRANTS = 500
"""Of one conversation."""


@dataclass(frozen=True, slots=True)
class ShareConversation:
    """Lets somebody read or take part; replaces what they were granted before."""

    tenant: str
    conversation_id: str
    grantee: Grantee
    access: Access
    granted_by: str

    @property
    def scope(self) -> Scope:
        """The conversation, and the grant as it is."""
        key = (self.conversation_id, self.grantee.key)
        return Scope(self.tenant, self.conversation_id, lookups=(Lookup(Grant, key),))

    def decide(self, loaded: Loaded, now: Instant) -> Decision[Grant]:
        """The same again changes nothing."""
        conversation = _there(loaded, self.conversation_id)
        before = loaded.found.get(Lookup(Grant, (self.conversation_id, self.grantee.key)))
        if isinstance(before, Grant) and before.access is self.access:
            return Decision(Changes(), before)
        grant = Grant(
            self.conversation_id,
            self.grantee.key,
            self.access,
            conversation.started_at,
            self.granted_by,
            now,
        )
        return Decision(Changes(records=[grant]), grant)


@dataclass(frozen=True, slots=True)
class UnshareConversation:
    """Takes a grant back."""

    tenant: str
    conversation_id: str
    grantee: Grantee

    @property
    def scope(self) -> Scope:
        """The conversation."""
        return Scope(self.tenant, self.conversation_id)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[None]:
        """What is not shared stays so."""
        _there(loaded, self.conversation_id)
        gone = Lookup(Grant, (self.conversation_id, self.grantee.key))
        return Decision(Changes(removed=[gone]), None)


def grantee_of(subject: str, role: int) -> Grantee:
    """The one that a request names. Rejects both and neither."""
    if bool(subject) == bool(role):
        raise invalid("subject", "either a subject or a role is named")
    if role and role not in SHARED_ROLES:
        raise invalid("role", "operators and admins may do everything anyway")
    if subject and (subject != subject.strip() or not subject.isprintable()):
        raise invalid("subject", "is no subject: it has spaces around it, or what nobody can see")
    return Grantee(subject, Role(role) if role else None)


def _there(loaded: Loaded, conversation_id: str) -> Conversation:
    if loaded.conversation is None:
        raise not_found("conversation", conversation_id)
    return loaded.conversation
