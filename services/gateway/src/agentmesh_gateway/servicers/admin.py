"""AdminService: keys, limits, audit and health."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from agentmesh.conversation_store.v1 import identity_service_pb2 as store_pb2
from agentmesh.conversation_store.v1 import ledger_service_pb2 as ledger_pb2
from agentmesh.gateway.v1 import admin_service_pb2 as pb2
from meshkit.context import current_principal
from meshkit.errors import FieldViolation, MeshError
from meshkit.policy import known_scopes

from agentmesh_gateway.health import Probe, examine
from agentmesh_gateway.identity.authenticator import Authenticator
from agentmesh_gateway.limits.tenants import Tenants
from agentmesh_gateway.servicers.context import Context, recast, set_http_status
from agentmesh_gateway.upstream import RUNTIME, STORE, TOOL_RUNNER, Upstream

_VERSION = metadata.version("agentmesh-gateway")


class AdminServicer:
    """All of the contract is served."""

    def __init__(
        self,
        upstream: Upstream,
        authenticator: Authenticator,
        tenants: Tenants,
        probes: dict[str, Probe],
    ) -> None:
        self._keys = upstream.keys
        self._ledger = upstream.ledger
        self._authenticator = authenticator
        self._tenants = tenants
        self._probes = probes

    async def create_key(
        self, request: pb2.CreateKeyRequest, context: Context
    ) -> pb2.CreateKeyResponse:
        """Makes a key."""
        wanted = store_pb2.CreateKeyRequest(
            request_id=request.request_id,
            role=request.role,
            name=request.name,
            scopes=_checked_scopes(request.scopes),
        )
        if request.HasField("ttl"):
            wanted.ttl.CopyFrom(request.ttl)
        made = await self._keys.CreateKey(wanted)
        # The first key ends anonymous access: here at once, elsewhere when its cache ends.
        self._authenticator.forget()
        return pb2.CreateKeyResponse(key=made.key, secret=made.secret)

    async def list_keys(
        self, request: pb2.ListKeysRequest, context: Context
    ) -> pb2.ListKeysResponse:
        """A page of the tenant's keys."""
        page = await self._keys.ListKeys(
            store_pb2.ListKeysRequest(page_size=request.page_size, page_token=request.page_token)
        )
        return pb2.ListKeysResponse(keys=page.keys, next_page_token=page.next_page_token)

    async def rotate_key(
        self, request: pb2.RotateKeyRequest, context: Context
    ) -> pb2.RotateKeyResponse:
        """Gives a key a new secret."""
        rotated = await self._keys.RotateKey(recast(request, store_pb2.RotateKeyRequest))
        self._authenticator.forget()
        return pb2.RotateKeyResponse(key=rotated.key, secret=rotated.secret)

    async def revoke_key(
        self, request: pb2.RevokeKeyRequest, context: Context
    ) -> pb2.RevokeKeyResponse:
        """Makes a key useless."""
        revoked = await self._keys.RevokeKey(
            store_pb2.RevokeKeyRequest(key_id=request.key_id, request_id=request.request_id)
        )
        self._authenticator.forget()
        return pb2.RevokeKeyResponse(key=revoked.key)

    async def get_tenant_policy(
        self, request: pb2.GetTenantPolicyRequest, context: Context
    ) -> pb2.GetTenantPolicyResponse:
        """The tenant's limits."""
        found = await self._ledger.GetTenantPolicy(ledger_pb2.GetTenantPolicyRequest())
        return pb2.GetTenantPolicyResponse(policy=found.policy)

    async def put_tenant_policy(
        self, request: pb2.PutTenantPolicyRequest, context: Context
    ) -> pb2.PutTenantPolicyResponse:
        """Replaces the tenant's limits."""
        put = await self._ledger.PutTenantPolicy(
            ledger_pb2.PutTenantPolicyRequest(request_id=request.request_id, policy=request.policy)
        )
        await self._tenants.changed(current_principal().tenant)
        return pb2.PutTenantPolicyResponse(policy=put.policy)

    async def list_audit(
        self, request: pb2.ListAuditRequest, context: Context
    ) -> pb2.ListAuditResponse:
        """A page of the tenant's audit records, newest first."""
        page = await self._ledger.ListAudit(recast(request, ledger_pb2.ListAuditRequest))
        return recast(page, pb2.ListAuditResponse)

    async def check_health(
        self, request: pb2.CheckHealthRequest, context: Context
    ) -> pb2.CheckHealthResponse:
        """Without the store nothing works; without the others conversations wait."""
        report = await examine(self._probes, vital=[STORE], helpful=[RUNTIME, TOOL_RUNNER])
        if report.status == "unhealthy":
            set_http_status(context, 503)
        return pb2.CheckHealthResponse(
            status=report.status, services=report.services, version=_VERSION
        )


def _checked_scopes(scopes: Sequence[str]) -> Sequence[str]:
    known = known_scopes()
    violations = [
        FieldViolation(f"scopes[{index}]", f"must be one of {', '.join(known)}")
        for index, scope in enumerate(scopes)
        if scope not in known
    ]
    if violations:
        raise MeshError.invalid_fields(violations)
    return scopes
