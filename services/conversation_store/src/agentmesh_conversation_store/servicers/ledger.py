"""LedgerService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb
from agentmesh.conversation_store.v1 import ledger_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import current_principal
from meshkit.errors import MeshError

from agentmesh_conversation_store.codec import tokens, values
from agentmesh_conversation_store.codec.digests import short_digest
from agentmesh_conversation_store.codec.ledger import (
    audit_message,
    audit_record,
    policy,
    policy_message,
    usage_row,
)
from agentmesh_conversation_store.domain.ledger import (
    AuditPosition,
    AuditQuery,
    Dimension,
    TenantPolicy,
    UsageQuery,
)
from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.storage.interface import (
    Storage,
)
from agentmesh_conversation_store.storage.requests import Request

from .admittance import caller
from .rejections import answers_rejections
from .repeatable import request_record

FULL_NAME = "agentmesh.conversation_store.v1.LedgerService"
_ROWS_A_PAGE = 1000
_RECORDS_A_PAGE = 200
_SYSTEM = ""


class LedgerServicer(pb_grpc.LedgerServiceServicer):
    """Usage, limits and audit records of the caller's tenant."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @answers_rejections
    async def SummarizeUsage(
        self, request: pb.SummarizeUsageRequest, _: ServicerContext
    ) -> pb.SummarizeUsageResponse:
        dimension = Dimension(request.dimension or Dimension.TOTAL)
        kind = f"usage by {dimension.name.lower()}"
        since, until = _span(request)
        size = request.page_size or _ROWS_A_PAGE
        after: str | int | None = None
        if request.page_token:
            shape = int if dimension is Dimension.DAY else str
            (after,) = tokens.page_position(request.page_token, kind, shape)
        query = UsageQuery(dimension, size + 1, since, until, after, caller())
        found = await self._storage.summarize_usage(current_principal().tenant, query)
        return pb.SummarizeUsageResponse(
            rows=[usage_row(one, dimension) for one in found[:size]],
            next_page_token=tokens.page_token(kind, found[size - 1].key)
            if len(found) > size
            else "",
        )

    @answers_rejections
    async def GetTenantPolicy(
        self, _request: pb.GetTenantPolicyRequest, _: ServicerContext
    ) -> pb.GetTenantPolicyResponse:
        found = await self._storage.tenant_policy(current_principal().tenant)
        return pb.GetTenantPolicyResponse(policy=policy_message(found))

    @answers_rejections
    async def PutTenantPolicy(
        self, request: pb.PutTenantPolicyRequest, _: ServicerContext
    ) -> pb.PutTenantPolicyResponse:
        if request.policy.daily_budget.HasField("max_wall_time"):
            raise MeshError.invalid("policy.daily_budget.max_wall_time", "bounds runs, not days")
        tenant = current_principal().tenant
        record: Request[TenantPolicy] | None = None
        if request.request_id:
            method = f"{FULL_NAME}/PutTenantPolicy"
            record = request_record(tenant, method, request, policy_message)
        wanted = policy(request.policy, tenant)
        put = await self._storage.put_tenant_policy(wanted, request.policy.etag, record)
        message = pb.TenantPolicy.FromString(put) if isinstance(put, bytes) else policy_message(put)
        return pb.PutTenantPolicyResponse(policy=message)

    @answers_rejections
    async def AppendAudit(
        self, request: pb.AppendAuditRequest, _: ServicerContext
    ) -> pb.AppendAuditResponse:
        now = await self._storage.now()
        digest = short_digest(request.SerializeToString(deterministic=True))
        batch: Request[None] = Request(
            _SYSTEM, f"audit/{request.batch_id}", digest.encode(), lambda _: b""
        )
        records = [
            audit_record(record, f"{request.batch_id}:{ordinal}", now)
            for ordinal, record in enumerate(request.records)
        ]
        await self._storage.append_audit(records, batch)
        return pb.AppendAuditResponse()

    @answers_rejections
    async def ListAudit(
        self, request: pb.ListAuditRequest, _: ServicerContext
    ) -> pb.ListAuditResponse:
        size = request.page_size or _RECORDS_A_PAGE
        since, until = _span(request)
        before = None
        if request.page_token:
            before = AuditPosition(*tokens.page_position(request.page_token, "audit", int, str))
        query = AuditQuery(
            size + 1,
            since,
            until,
            before,
            principal=request.principal,
            method=request.method,
            resource=request.resource,
            code=request.code,
        )
        found = await self._storage.list_audit(current_principal().tenant, query)
        token = ""
        if len(found) > size:
            last = found[size - 1]
            token = tokens.page_token("audit", last.time, last.record_id)
        return pb.ListAuditResponse(
            records=[audit_message(record) for record in found[:size]], next_page_token=token
        )


def _span(
    request: pb.SummarizeUsageRequest | pb.ListAuditRequest,
) -> tuple[Instant | None, Instant | None]:
    since = values.instant(request.from_time) if request.HasField("from_time") else None
    until = values.instant(request.to_time) if request.HasField("to_time") else None
    if since is not None and until is not None and since >= until:
        raise MeshError.invalid("to_time", "must lie after from_time")
    return since, until
