"""Changes that somebody asked for from outside, recorded in the transaction that makes them: there
is no such change without its record, and no record of a change that was not made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agentmesh_conversation_store.domain.ledger import AuditRecord
from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.storage.changed_by import ChangedBy, changed_by

from . import audit
from .plan import Plan, Session, now

T = TypeVar("T")
_OK = "OK"


def record(by: ChangedBy, at: Instant, resource: str = "") -> AuditRecord:
    """What is kept of a change that was made; `resource` where the caller did not name it."""
    return AuditRecord(
        tenant=by.tenant,
        record_id=by.origin.call_id,
        time=at,
        principal=by.principal,
        method=by.origin.method,
        resource=by.origin.resource or resource,
        code=_OK,
        peer=by.origin.peer,
        trace_id=by.origin.trace_id,
        request_id=by.origin.request_id,
    )


def audited(
    plan: Callable[[Session], Plan[T]], resource: str | Callable[[], Plan[str]] = ""
) -> Callable[[Session], Plan[T]]:
    """The same plan, with the record of what the call being served changes by it. `resource` is
    what it is about if the caller did not name it, or a plan that finds it out afterwards."""
    by = changed_by()
    if by is None:
        return plan

    def recorded(session: Session) -> Plan[T]:
        result = yield from plan(session)
        about = resource if isinstance(resource, str) else (yield from resource())
        at = yield from now()
        yield from audit.add([record(by, at, about)])
        return result

    return recorded
