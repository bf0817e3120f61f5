"""Puts the limits together, as the settings say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshkit.ids import new_id

from agentmesh_gateway.http.proxies import TrustedProxies
from agentmesh_gateway.limits.bodies import Bodies
from agentmesh_gateway.limits.buckets import Buckets, LocalBuckets
from agentmesh_gateway.limits.credential_guard import CredentialGuard
from agentmesh_gateway.limits.gate import Gate
from agentmesh_gateway.limits.memory import container_limit
from agentmesh_gateway.limits.overload import Overload
from agentmesh_gateway.limits.redis_buckets import RedisBuckets
from agentmesh_gateway.limits.shared_buckets import SharedBuckets
from agentmesh_gateway.limits.strangers import Strangers
from agentmesh_gateway.limits.tenants import Defaults, PolicyDirectory, Tenants

if TYPE_CHECKING:
    from agentmesh_gateway.settings import GatewaySettings

_MOST_CALLERS = 100_000

Hook = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What limits calls, and the hooks that start and stop it."""

    gate: Gate
    guard: CredentialGuard
    bodies: Bodies
    strangers: Strangers
    tenants: Tenants
    proxies: TrustedProxies
    on_start: list[Hook] = field(default_factory=list)
    on_stop: list[Hook] = field(default_factory=list)


def assemble(settings: GatewaySettings, policies: PolicyDirectory) -> Limits:
    """The limits of one gateway."""
    proxies = TrustedProxies(settings.trusted_proxies)
    tenants = Tenants(policies, _defaults(settings))
    overload = Overload(
        max_calls=settings.max_calls_under_way,
        max_lag=settings.max_loop_lag_seconds,
        max_memory=settings.max_memory_bytes or container_limit(),
    )
    on_start: list[Hook] = [overload.start]
    on_stop: list[Hook] = [overload.stop]
    buckets: Buckets = LocalBuckets(_MOST_CALLERS)
    if settings.redis_url is not None:
        shared = SharedBuckets(
            RedisBuckets(
                settings.redis_url.get_secret_value(), settings.redis_prefix, new_id("gw")
            ),
            LocalBuckets(_MOST_CALLERS),
        )
        on_start.append(shared.start)
        on_stop.append(shared.stop)
        buckets = shared
    strangers = Strangers(settings.anonymous_requests_per_second)
    gate = Gate(
        overload=overload,
        tenants=tenants,
        buckets=buckets,
        strangers=strangers,
        proxies=proxies,
        max_uploads=settings.max_uploads_per_principal,
    )
    guard = CredentialGuard(
        settings.refused_credentials_per_minute, settings.anonymous_requests_per_second
    )
    bodies = Bodies(overload, settings.http_max_held_body_bytes, settings.max_message_bytes)
    return Limits(gate, guard, bodies, strangers, tenants, proxies, on_start, on_stop)


def _defaults(settings: GatewaySettings) -> Defaults:
    return Defaults(
        requests_per_second=settings.requests_per_second,
        requests_per_second_per_principal=settings.requests_per_second_per_principal,
        max_open_streams=settings.max_open_streams,
        max_open_streams_per_principal=settings.max_open_streams_per_principal,
        ceiling=settings.limits_ceiling,
    )
