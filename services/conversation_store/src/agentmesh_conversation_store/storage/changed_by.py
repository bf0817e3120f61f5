"""Who asked from outside for what the running call changes."""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.call_origin import CallOrigin, find_received
from meshkit.context import find_principal


@dataclass(frozen=True, slots=True)
class ChangedBy:
    """A principal of a tenant, and the public call that the running one is part of."""

    tenant: str
    principal: str
    origin: CallOrigin


def changed_by() -> ChangedBy | None:
    """None if the mesh itself asked, or a worker."""
    origin, principal = find_received(), find_principal()
    if origin is None or principal is None:
        return None
    return ChangedBy(principal.tenant, principal.subject, origin)
