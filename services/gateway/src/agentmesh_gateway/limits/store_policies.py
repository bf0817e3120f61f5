"""Tenants' policies, as the store keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb2
from meshkit.context import Principal, principal_scope
from meshkit.errors import from_rpc_error

from agentmesh_gateway.limits.tenants import Wishes

if TYPE_CHECKING:
    # Only the stubs' type information has these names.
    from agentmesh.conversation_store.v1.ledger_service_pb2_grpc import LedgerServiceAsyncStub

_TIMEOUT_SECONDS = 5.0


class StorePolicies:
    """Reads policies with the store's LedgerService."""

    def __init__(self, ledger: LedgerServiceAsyncStub) -> None:
        self._ledger = ledger

    async def wishes(self, tenant: str) -> Wishes:
        """See `PolicyDirectory.wishes`."""
        reader = Principal(subject="gateway", tenant=tenant, role=options_pb2.ROLE_VIEWER)
        try:
            with principal_scope(reader):
                found = await self._ledger.GetTenantPolicy(
                    pb2.GetTenantPolicyRequest(), timeout=_TIMEOUT_SECONDS
                )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        policy = found.policy
        return Wishes(
            policy.requests_per_second or None,
            policy.requests_per_second_per_principal or None,
            policy.max_open_streams or None,
            policy.max_open_streams_per_principal or None,
        )
