"""The gate of the gateway: every public call passes it, whatever edge it came to.

Before anything is done it says whether the replica takes more calls at all; once it is known who
calls, whether that one has had its share: of calls a second, of calls under way, of open streams.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import grpc
from agentmesh.common.v1 import errors_pb2, options_pb2
from meshkit.caller_address import enter_caller_address
from meshkit.context import Principal
from meshkit.counts import Counts
from meshkit.errors import MeshError, QuotaViolation
from meshkit.policy import MethodRules
from meshkit.served_call import ServedCall

from agentmesh_gateway.http.proxies import TrustedProxies
from agentmesh_gateway.limits.buckets import Buckets, Verdict
from agentmesh_gateway.limits.overload import RETRY_SECONDS, Overload
from agentmesh_gateway.limits.shares import SharesOfCallers, subjects_of
from agentmesh_gateway.limits.strangers import Strangers
from agentmesh_gateway.limits.tenants import TenantLimits, Tenants

# One request over HTTP is one call: it does not pay twice.
_paid: ContextVar[bool] = ContextVar("agentmesh_call_paid", default=False)
_TENANTS_SHARE = 0.5


@dataclass(slots=True)
class _Pass:
    """What a call holds."""

    under_way: bool = False
    callers: Sequence[str] = field(default=())
    streams: Sequence[str] = field(default=())
    uploads: Sequence[str] = field(default=())


class Gate:
    """See `meshkit.call_gate.CallGate`."""

    def __init__(
        self,
        *,
        overload: Overload,
        tenants: Tenants,
        buckets: Buckets,
        strangers: Strangers,
        proxies: TrustedProxies,
        max_uploads: int,
    ) -> None:
        self._overload = overload
        self._tenants = tenants
        self._buckets = buckets
        self._strangers = strangers
        self._proxies = proxies
        self._shares = SharesOfCallers()
        self._under_way = Counts()
        self._streams = Counts()
        self._max_uploads = max_uploads
        self._uploads = Counts()

    def arrive(self, call: ServedCall) -> None:
        """Sheds the call if the replica has too much to do, and limits those of nobody."""
        address = self._proxies.address_of_call(call.context)
        if address:
            enter_caller_address(address)
        self._overload.admit(call.rules.importance)
        self._overload.enter()
        call.admittance = _Pass(under_way=True)
        if call.rules.audience == options_pb2.AUDIENCE_ANYONE:
            self._strangers.require("call")

    def limit(self, call: ServedCall) -> Awaitable[None] | None:
        """Takes from the caller's shares. Raises MeshError RESOURCE_EXHAUSTED."""
        principal = call.principal
        if principal is None:
            return None
        limits = self._tenants.find(principal.tenant)
        if limits is None:
            return self._limit_when_known(call, principal)
        return self._limit(call, principal, limits)

    async def expect(self, rules: MethodRules, principal: Principal) -> None:
        """See `CallGate.expect`."""
        self._overload.admit(rules.importance)
        limits = self._tenants.find(principal.tenant) or await self._tenants.fetch(principal.tenant)
        pending = self._take(principal, limits, vital=_is_vital(rules))
        if pending is not None:
            await pending
        _paid.set(True)

    async def charge(self, principal: Principal) -> None:
        """Takes what a call takes, for something that becomes none. Raises MeshError
        RESOURCE_EXHAUSTED."""
        limits = self._tenants.find(principal.tenant) or await self._tenants.fetch(principal.tenant)
        pending = self._take(principal, limits, vital=False)
        if pending is not None:
            await pending

    def leave(self, call: ServedCall) -> None:
        """Gives back what the call holds."""
        held: _Pass | None = call.admittance
        if held is None:
            return
        call.admittance = None
        if held.under_way:
            self._overload.leave()
        self._under_way.remove(held.callers)
        self._streams.remove(held.streams)
        self._uploads.remove(held.uploads)

    async def _limit_when_known(self, call: ServedCall, principal: Principal) -> None:
        limits = await self._tenants.fetch(principal.tenant)
        pending = self._limit(call, principal, limits)
        if pending is not None:
            await pending

    def _limit(
        self, call: ServedCall, principal: Principal, limits: TenantLimits
    ) -> Awaitable[None] | None:
        self._hold(call, principal, limits)
        return None if _paid.get() else self._take(principal, limits, vital=_is_vital(call.rules))

    def _take(
        self, principal: Principal, limits: TenantLimits, *, vital: bool
    ) -> Awaitable[None] | None:
        shares = self._shares.of(principal, limits, vital=vital)
        if not shares.takes:
            return None
        verdict = self._buckets.take(shares.takes)
        if isinstance(verdict, Verdict):
            shares.require(verdict)
            return None
        return shares.require_when_known(verdict)

    def _hold(self, call: ServedCall, principal: Principal, limits: TenantLimits) -> None:
        held: _Pass = call.admittance
        tenant = f"tenant:{principal.tenant}"
        if call.rules.server_streaming:
            keys = (f"principal:{principal.tenant}/{principal.subject}", tenant)
            bounds = (limits.streams_of_principal, limits.streams)
            for key, bound, whose in zip(keys, bounds, subjects_of(principal), strict=True):
                if bound is not None and self._streams[key] >= bound:
                    raise _used_up(whose, f"{bound} streams open at once at one replica")
            self._streams.add(keys)
            held.streams = keys
            # It may last for days and do nothing: from here on it counts among the streams.
            self._overload.leave()
            held.under_way = False
            return
        if not _is_vital(call.rules):
            bound = max(1, int(self._overload.limit * _TENANTS_SHARE))
            if self._overload.limit and self._under_way[tenant] >= bound:
                raise _used_up(tenant, f"{bound} calls under way at once at one replica")
        if call.rules.client_streaming:
            self._hold_upload(held, principal)
        self._under_way.add((tenant,))
        held.callers = (tenant,)

    def _hold_upload(self, held: _Pass, principal: Principal) -> None:
        """Uploads take as long as their senders like: one of these does not get all places."""
        key = f"{principal.tenant}/{principal.subject}"
        if 0 < self._max_uploads <= self._uploads[key]:
            whose, _ = subjects_of(principal)
            raise _used_up(whose, f"{self._max_uploads} uploads at once at one replica")
        self._uploads.add((key,))
        held.uploads = (key,)


def _is_vital(rules: MethodRules) -> bool:
    return rules.importance == options_pb2.IMPORTANCE_VITAL


def _used_up(subject: str, quota: str) -> MeshError:
    return MeshError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
        f"{subject} has used up its {quota}",
        retry_after=RETRY_SECONDS,
        quotas=(QuotaViolation(subject, quota),),
    )
