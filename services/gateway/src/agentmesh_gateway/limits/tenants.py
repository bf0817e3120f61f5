"""What each tenant may have: the gateway's defaults, or what its policy says within them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from meshkit.errors import MeshError

from agentmesh_gateway.limits.buckets import Rate

logger = logging.getLogger(__name__)

_MOST_TENANTS = 10_000
_BELIEVED_SECONDS = 10.0
_PATIENCE_SECONDS = 0.5
_BURST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """Numbers of a tenant's policy; None where it has none of its own."""

    requests_per_second: int | None = None
    requests_per_second_per_principal: int | None = None
    max_open_streams: int | None = None
    max_open_streams_per_principal: int | None = None


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What holds; None is no limit."""

    requests: Rate | None
    requests_of_principal: Rate | None
    streams: int | None
    streams_of_principal: int | None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where a policy says nothing; 0 is no limit.

    A policy may lower each, or raise it up to `ceiling` times. Where there is no limit by default,
    one that a policy sets holds.
    """

    requests_per_second: int
    requests_per_second_per_principal: int
    max_open_streams: int
    max_open_streams_per_principal: int
    ceiling: int

    def limits(self, wishes: Wishes) -> TenantLimits:
        """What holds for a tenant whose policy says this."""
        return TenantLimits(
            _rate(self._bounded(self.requests_per_second, wishes.requests_per_second)),
            _rate(
                self._bounded(
                    self.requests_per_second_per_principal,
                    wishes.requests_per_second_per_principal,
                )
            ),
            self._bounded(self.max_open_streams, wishes.max_open_streams),
            self._bounded(
                self.max_open_streams_per_principal, wishes.max_open_streams_per_principal
            ),
        )

    def _bounded(self, default: int, wish: int | None) -> int | None:
        if wish is None:
            return default or None
        return min(wish, default * self.ceiling) if default else wish


def _rate(per_second: int | None) -> Rate | None:
    return None if per_second is None else Rate(per_second, max(1.0, per_second * _BURST_SECONDS))


class PolicyDirectory(Protocol):
    """Where policies are kept."""

    async def wishes(self, tenant: str) -> Wishes:
        """What the tenant's policy says. Raises MeshError."""


@dataclass(slots=True)
class _Known:
    limits: TenantLimits
    until: float
    asking: asyncio.Task[None] | None = None


class Tenants:
    """Limits by tenant, asked for once in some seconds.

    The first call of a tenant waits for them, half a second at most; later ones take those that
    are known while newer ones are asked for. Where they cannot be had the last ones hold, or the
    defaults.
    """

    def __init__(
        self,
        directory: PolicyDirectory,
        defaults: Defaults,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._defaults = defaults
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def find(self, tenant: str) -> TenantLimits | None:
        """The limits, if they are known; newer ones are asked for if it is time."""
        known = self._known.get(tenant)
        if known is None:
            return None
        if known.until <= self._clock() and known.asking is None:
            self._ask(tenant, known)
        return known.limits

    async def fetch(self, tenant: str) -> TenantLimits:
        """The limits, after asking for them."""
        known = self._known.get(tenant)
        if known is None:
            known = self._known[tenant] = _Known(self._defaults.limits(Wishes()), 0.0)
            if len(self._known) > _MOST_TENANTS:
                self._known.popitem(last=False)
        if known.asking is None:
            self._ask(tenant, known)
        if known.asking is not None:
            await asyncio.wait({known.asking}, timeout=_PATIENCE_SECONDS)
        return known.limits

    async def changed(self, tenant: str) -> None:
        """The policy was changed through this gateway: what it says now holds from now on."""
        self._known.pop(tenant, None)
        await self.fetch(tenant)

    def _ask(self, tenant: str, known: _Known) -> None:
        known.until = self._clock() + _BELIEVED_SECONDS
        known.asking = asyncio.create_task(
            self._read(tenant, known), name="tenant-limits", context=contextvars.Context()
        )

    async def _read(self, tenant: str, known: _Known) -> None:
        try:
            known.limits = self._defaults.limits(await self._directory.wishes(tenant))
        except MeshError as error:
            logger.info("the limits of a tenant could not be read: %s", error)
        finally:
            known.asking = None
