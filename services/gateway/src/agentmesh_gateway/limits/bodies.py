"""Bodies of requests over HTTP, which are held in memory before there is a call.

While a body is read it has a place among those of its tenant and of its address; what came of it
counts among the bytes of these two and of the process until its call is over. So neither those who
send slowly nor those who send much can have all of a replica.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.caller_address import find_caller_address
from meshkit.context import Principal
from meshkit.counts import Counts
from meshkit.errors import MeshError, QuotaViolation
from meshkit.sites import site_of

from agentmesh_gateway.limits.overload import RETRY_SECONDS, Overload

_SHARE = 0.5
_ALL = "all"
_VITAL_MARGIN = 1.5


class Bodies:
    """At most `most_bytes` of them, and half of that of a tenant or an address; each of these has
    at most half as many at once as calls may be under way. 0 is no limit, of calls either. A body
    has at most `largest` bytes, and so much has everybody."""

    def __init__(self, overload: Overload, most_bytes: int, largest: int) -> None:
        self.largest = largest
        self._overload = overload
        self._most = max(2 * largest, most_bytes) if most_bytes else 0
        self._most_of_one = max(largest, int(self._most * _SHARE)) if most_bytes else 0
        self._places = Counts()
        self._bytes = Counts()

    def of(
        self, headers: Mapping[bytes, bytes], principal: Principal | None, *, vital: bool
    ) -> Body:
        """The body that these headers announce. Raises MeshError RESOURCE_EXHAUSTED if there is no
        place for it. Those of vital calls need none, and have half as many bytes more."""
        announced = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        if not announced:
            return Body(self, (), vital=vital)
        holders = holders_of(principal)
        if self._overload.limit and not vital:
            bound = max(1, int(self._overload.limit * _SHARE))
            for holder in holders:
                if self._places[holder] >= bound:
                    raise _used_up(holder, f"{bound} bodies being read at once at one replica")
        self._places.add(holders)
        return Body(self, holders, vital=vital)

    def hold(self, holders: tuple[str, ...], size: int, *, vital: bool) -> None:
        """So many more bytes are there. Raises MeshError if that is too much."""
        margin = _VITAL_MARGIN if vital else 1.0
        if self._most:
            for holder in holders:
                if self._bytes[holder] + size > self._most_of_one * margin:
                    quota = f"{self._most_of_one} bytes of bodies at once at one replica"
                    raise _used_up(holder, quota)
            if self._bytes[_ALL] + size > self._most * margin:
                raise MeshError(
                    grpc.StatusCode.UNAVAILABLE,
                    errors_pb2.ERROR_REASON_REPLICA_OVERLOADED,
                    "this replica of the gateway holds as much of requests as it can; call again",
                    retry_after=RETRY_SECONDS,
                )
        self._bytes.add((*holders, _ALL), size)

    def leave(self, holders: tuple[str, ...]) -> None:
        """A body was read."""
        self._places.remove(holders)

    def release(self, holders: tuple[str, ...], size: int) -> None:
        """So many bytes are gone."""
        self._bytes.remove((*holders, _ALL), size)


def holders_of(principal: Principal | None) -> tuple[str, ...]:
    """Among whose bytes those of the current caller count."""
    site = f"address:{site_of(find_caller_address())}"
    return (f"tenant:{principal.tenant}", site) if principal else (site,)


class Body:
    """What one request holds, within a `with` block."""

    __slots__ = ("_bodies", "_holders", "_reading", "_size", "_vital")

    def __init__(self, bodies: Bodies, holders: tuple[str, ...], *, vital: bool) -> None:
        self._bodies = bodies
        self._holders = holders
        self._vital = vital
        self._reading = bool(holders)
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def announced(self) -> bool:
        """Whether there is one."""
        return bool(self._holders)

    @property
    def largest(self) -> int:
        """How many bytes it may have."""
        return self._bodies.largest

    def grow(self, size: int) -> None:
        """So many more bytes came. Raises MeshError if they cannot be held."""
        self._bodies.hold(self._holders, size, vital=self._vital)
        self._size += size

    def complete(self) -> None:
        """All of it was read."""
        if self._reading:
            self._reading = False
            self._bodies.leave(self._holders)

    def release(self) -> None:
        """Nothing of it is needed any more."""
        self.complete()
        if self._size:
            size, self._size = self._size, 0
            self._bodies.release(self._holders, size)


def _used_up(holder: str, quota: str) -> MeshError:
    return MeshError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
        f"{holder} has used up its {quota}",
        retry_after=RETRY_SECONDS,
        quotas=(QuotaViolation(holder, quota),),
    )
