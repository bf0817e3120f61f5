"""Who may call a method: its policy, judged by the credentials that came with the call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from agentmesh.common.v1 import options_pb2

from meshkit.context import Principal, RunCapability
from meshkit.errors import MeshError
from meshkit.identity import CAPABILITY_HEADER, INTERNAL_HEADER, InternalIdentity
from meshkit.policy import MethodRules
from meshkit.roles import includes, role_name

ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
PublicAuthenticator: TypeAlias = Callable[[ServicerContext], Awaitable[Principal]]
"""Says who a public caller is; raises MeshError UNAUTHENTICATED if nobody."""

Identity: TypeAlias = tuple[Principal | None, RunCapability | None]

WORKER_ROLE = options_pb2.ROLE_OPERATOR
"""What a run may do beyond its own writes: it acts for the operator who started it."""


class Admission:
    """Applies policies with the keys of one service."""

    def __init__(
        self, identity: InternalIdentity, public_authenticator: PublicAuthenticator | None
    ) -> None:
        self.identity = identity
        self.public_authenticator = public_authenticator

    async def admit(
        self,
        rules: MethodRules,
        context: ServicerContext,
        internal: str,
        capability: str,
        recognised: Callable[[Principal], None] = lambda _: None,
    ) -> Identity:
        """Whom the call acts for, given its two tokens (empty if absent). Raises MeshError.

        `recognised` is told of a public caller even if the policy then refuses the call.
        """
        if rules.audience == options_pb2.AUDIENCE_PUBLIC:
            if self.public_authenticator is None:
                raise MeshError.credentials_invalid("this service takes no public calls")
            principal = await self.public_authenticator(context)
            recognised(principal)
            _require_role(rules, principal)
            _require_scope(rules, principal)
            return principal, None
        return self._admit_internal(rules, internal, capability)

    def _admit_internal(self, rules: MethodRules, internal: str, capability: str) -> Identity:
        if rules.audience == options_pb2.AUDIENCE_ANYONE:
            return None, None
        if not internal:
            raise MeshError.internal_only(
                f"{rules.full_name} is for services of the mesh: {INTERNAL_HEADER} is missing"
            )
        principal = self.identity.verify(internal)
        if rules.audience == options_pb2.AUDIENCE_WORKER:
            return self._admit_worker(rules, principal, capability)
        if rules.audience == options_pb2.AUDIENCE_INTERNAL:
            if not principal.tenant:
                raise MeshError.internal_only(
                    f"{rules.full_name} acts for a tenant; a service cannot call it for itself"
                )
            _require_role(rules, principal)
        return principal, None

    def _admit_worker(self, rules: MethodRules, caller: Principal, token: str) -> Identity:
        if not token:
            raise MeshError.capability_required(
                f"{rules.full_name} needs the run capability that came with the lease, "
                f"as {CAPABILITY_HEADER}"
            )
        capability = self.identity.verify_capability(token)
        run = Principal(capability.run_id, capability.tenant, WORKER_ROLE, caller.service)
        return run, capability


def _require_role(rules: MethodRules, principal: Principal) -> None:
    if not includes(principal.role, rules.required_role):
        raise MeshError.role_too_low(role_name(rules.required_role), role_name(principal.role))


def _require_scope(rules: MethodRules, principal: Principal) -> None:
    if not principal.has_scope(rules.scope):
        raise MeshError.scope_missing(rules.scope, principal.scopes or ())
