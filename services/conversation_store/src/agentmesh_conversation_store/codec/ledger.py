"""Usage sums, tenant policies and audit records as they travel."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb

from agentmesh_conversation_store.domain.ledger import (
    AuditRecord,
    Dimension,
    TenantPolicy,
    UsageSum,
)
from agentmesh_conversation_store.domain.model import SECOND, Instant, Visibility
from agentmesh_conversation_store.domain.usage import NO_USAGE, Budget

from . import values

_Visibility = conversation_pb2.ConversationVisibility.ValueType
_COUNTS: tuple[str, ...] = (
    "max_queued_runs",
    "requests_per_second",
    "requests_per_second_per_principal",
    "max_open_streams",
    "max_open_streams_per_principal",
)
"""Limits that are numbers of the same name on both sides, or unset."""


def usage_row(found: UsageSum, dimension: Dimension) -> pb.UsageRow:
    """A sum; a day by its date."""
    key = found.key
    if dimension is Dimension.DAY:
        key = datetime.fromtimestamp(int(key) // SECOND, UTC).date().isoformat()
    usage = NO_USAGE if found.usage == NO_USAGE else found.usage
    return pb.UsageRow(key=str(key), usage=values.usage_message(usage))


def policy_message(policy: TenantPolicy) -> pb.TenantPolicy:
    """Limits as they are shown."""
    age = policy.retention_age
    return pb.TenantPolicy(
        max_active_runs=policy.max_active_runs,
        daily_budget=None
        if policy.daily_budget == Budget()
        else values.budget_message(policy.daily_budget),
        retention_age=None if age is None else values.duration(age),
        retention_events=policy.retention_events,
        **{name: getattr(policy, name) for name in _COUNTS},
        default_visibility=_Visibility(policy.default_visibility),
        etag=policy.etag,
    )


def policy(message: pb.TenantPolicy, tenant: str) -> TenantPolicy:
    """Limits as somebody wants them."""
    fields: Any = message  # its names are literals to the type checker
    return TenantPolicy(
        tenant,
        max_active_runs=message.max_active_runs if message.HasField("max_active_runs") else None,
        daily_budget=values.budget(message.daily_budget),
        retention_age=values.micros(message.retention_age)
        if message.HasField("retention_age")
        else None,
        retention_events=message.retention_events if message.HasField("retention_events") else None,
        **{name: getattr(message, name) for name in _COUNTS if fields.HasField(name)},
        default_visibility=Visibility(message.default_visibility or Visibility.PRIVATE),
    )


def audit_record(message: pb.AuditRecord, record_id: str, now: Instant) -> AuditRecord:
    """A record; without a time it happened now. Its place in the chain is not the writer's."""
    return AuditRecord(
        tenant=message.tenant,
        record_id=message.record_id or record_id,
        time=values.instant(message.time) if message.HasField("time") else now,
        principal=message.principal,
        method=message.method,
        resource=message.resource,
        code=message.code,
        peer=message.peer,
        trace_id=message.trace_id,
        request_id=message.request_id,
    )


def audit_message(record: AuditRecord) -> pb.AuditRecord:
    """A record as it is shown."""
    return pb.AuditRecord(
        time=values.timestamp(record.time),
        tenant=record.tenant,
        principal=record.principal,
        method=record.method,
        resource=record.resource,
        code=record.code,
        peer=record.peer,
        trace_id=record.trace_id,
        request_id=record.request_id,
        record_id=record.record_id,
        sequence=record.sequence,
    )
