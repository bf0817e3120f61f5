"""Changes that somebody asked for from outside, recorded in the transaction that makes them: there
is no such change without its record, and no record of a change that was not made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from agentmesh_conversation_store.domain.audit_keys import AuditKeys
from agentmesh_conversation_store.domain.ledger import AuditRecord
from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.storage.changed_by import ChangedBy, changed_by
from agentmesh_conversation_store.storage.requests import Request

from .plan import Plan, Session, each, now
from .requests import once
from .tables import AUDIT

T = TypeVar("T")
_OK = "OK"
_ADD = f"{AUDIT.add} ON CONFLICT (tenant, record_id) DO NOTHING"


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


class Recorder:
    """Writes records, each marked with the store's key."""

    def __init__(self, keys: AuditKeys) -> None:
        self._keys = keys

    def add(self, records: Sequence[AuditRecord]) -> Plan[None]:
        """Keeps records, each once, as a part of whatever transaction this is."""
        mac = self._keys.mac
        yield from each(_ADD, [(*AUDIT.row(one)[:-1], mac(one)) for one in records])

    def append(self, records: Sequence[AuditRecord], request: Request[None]) -> Plan[None]:
        """Keeps a batch once, however often it comes."""
        yield from once(request, lambda: self.add(records))

    def audited(
        self, plan: Callable[[Session], Plan[T]], resource: str | Callable[[], Plan[str]] = ""
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
            yield from self.add([record(by, at, about)])
            return result

        return recorded
