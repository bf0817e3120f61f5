"""Whose a conversation is, and who else may do what in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from meshkit.roles import Role, includes

from .model import Conversation, Instant, Visibility
from .rejections import Reason, Rejection, not_found

SHARED_ROLES = (Role.VIEWER, Role.USER, Role.SERVICE)
"""Those that a conversation can be shared with: the others may do everything anyway."""

_ROLE = "role:"
_SUBJECT = "subject:"


class Access(IntEnum):
    """What may be done in a conversation; each includes those before it."""

    READ = 1
    WRITE = 2
    SHARE = 3


@dataclass(frozen=True, slots=True)
class Grantee:
    """With whom a conversation is shared: one subject, or all whose role includes `role`."""

    subject: str = ""
    role: Role | None = None

    @property
    def key(self) -> str:
        """By which the database knows it."""
        return f"{_SUBJECT}{self.subject}" if self.role is None else f"{_ROLE}{self.role.name}"

    @staticmethod
    def of_key(key: str) -> Grantee:
        """The one of a key."""
        if key.startswith(_ROLE):
            return Grantee(role=Role[key.removeprefix(_ROLE)])
        return Grantee(key.removeprefix(_SUBJECT))


@dataclass(frozen=True, slots=True)
class Grant:
    """A conversation shared. `started_at` is when the conversation was, by which lists go."""

    conversation_id: str
    grantee: str
    access: Access
    started_at: Instant
    granted_by: str
    granted_at: Instant


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a subject of a tenant in a role."""

    subject: str
    role: int

    @property
    def sees_all(self) -> bool:
        """Operators and admins may do everything in every conversation of their tenant."""
        return includes(self.role, Role.OPERATOR)

    @property
    def grantees(self) -> tuple[str, ...]:
        """The keys of all that may be shared with and mean this caller."""
        roles = [Grantee(role=role).key for role in SHARED_ROLES if includes(self.role, role)]
        return (*roles, Grantee(self.subject).key) if self.subject else tuple(roles)

    def owns(self, conversation: Conversation) -> bool:
        """True if it is the caller's own."""
        return bool(self.subject) and conversation.owner == self.subject

    def may(self, conversation: Conversation, granted: Access | None) -> Access | None:
        """What the caller may do, given the most that was granted; None: not even know of it."""
        if self.sees_all or self.owns(conversation):
            return Access.SHARE
        if granted is None and conversation.visibility is Visibility.TENANT:
            return Access.READ
        return granted


SYSTEM = Caller("", Role.ADMIN)
"""What the store reads for itself."""


def require(conversation_id: str, access: Access | None, needed: Access) -> None:
    """Refuses what is not allowed. Who may not read learns nothing."""
    if access is None:
        raise not_found("conversation", conversation_id)
    if access < needed:
        raise Rejection(
            Reason.ACCESS_TOO_LOW,
            f"{conversation_id} is shared with you to {access.name.lower()}, not to"
            f" {needed.name.lower()}",
            access=access.name.lower(),
            needed=needed.name.lower(),
        )


def owned(conversation: Conversation, owner: str, visibility: Visibility) -> Conversation:
    """The same, somebody's."""
    return replace(conversation, owner=owner, visibility=visibility)
