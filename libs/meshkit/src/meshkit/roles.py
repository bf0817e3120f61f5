"""What principals may do, in the words of domain code; the contract has the same numbers."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Role(IntEnum):
    """What a principal may do; see `common.v1.Role`. The numbers are no order: ask `includes`."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3
    USER = 4
    SERVICE = 5

    def includes(self, other: Role) -> bool:
        """Whether who has this role may do all that `other` may."""
        return other in _INCLUDED[self]


_USER: Final = frozenset({Role.VIEWER, Role.USER})
_OPERATOR: Final = _USER | {Role.OPERATOR}
_INCLUDED: Final = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.USER: _USER,
    Role.SERVICE: _USER | {Role.SERVICE},
    Role.OPERATOR: _OPERATOR,
    Role.ADMIN: frozenset(Role),
}


def includes(role: int, required: int) -> bool:
    """As `Role.includes`, of numbers that may come from elsewhere: an unknown one includes nothing
    and is included by none."""
    try:
        return Role(role).includes(Role(required))
    except ValueError:
        return False


def role_name(role: int) -> str:
    """ "viewer", "user", "service", "operator", "admin", or "none"."""
    known: dict[int, Role] = {item.value: item for item in Role}
    return known[role].name.lower() if role in known else "none"
