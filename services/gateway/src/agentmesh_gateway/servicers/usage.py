"""UsageService: what the tenant consumed."""

from __future__ import annotations

from agentmesh.conversation_store.v1 import ledger_service_pb2 as store_pb2
from agentmesh.gateway.v1 import usage_service_pb2 as pb2

from agentmesh_gateway.servicers.context import Context, recast
from agentmesh_gateway.upstream import Upstream


class UsageServicer:
    """All of the contract is served."""

    def __init__(self, upstream: Upstream) -> None:
        self._ledger = upstream.ledger

    async def summarize_usage(
        self, request: pb2.SummarizeUsageRequest, context: Context
    ) -> pb2.SummarizeUsageResponse:
        """A page of sums, by key."""
        page = await self._ledger.SummarizeUsage(recast(request, store_pb2.SummarizeUsageRequest))
        return recast(page, pb2.SummarizeUsageResponse)
