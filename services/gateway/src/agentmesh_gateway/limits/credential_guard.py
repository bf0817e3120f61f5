"""Guessing credentials is bounded: so many refusals a minute for each address.

Beyond that, credentials from the address are refused without asking anybody, but for those that
were good a while ago: guests of the same address, behind one proxy or in one building, are not
locked out by each other.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import grpc
from meshkit.caller_address import find_caller_address
from meshkit.errors import MeshError, QuotaViolation

from agentmesh_gateway.limits.buckets import LocalBuckets, Rate, Take

_MOST_GOOD = 10_000
_HEADERS = frozenset({"authorization", "x-api-key"})
_IPV6_SITE = 64
Metadata = Iterable[tuple[str, str | bytes]]


class CredentialGuard:
    """Counts refusals in `buckets`. `per_minute` 0 is no limit."""

    def __init__(self, buckets: LocalBuckets, per_minute: int) -> None:
        self._buckets = buckets
        self._per_minute = per_minute
        self._rate = Rate(max(1, per_minute) / 60, max(1, per_minute))
        self._good: OrderedDict[bytes, None] = OrderedDict()
        # What is kept of credentials is of no use outside of this process.
        self._salt = secrets.token_bytes(16)

    @contextmanager
    def watching(self, metadata: Metadata) -> Iterator[None]:
        """Around a check of the credentials in `metadata`. Raises MeshError RATE_LIMITED instead if
        the caller's address has used up its refusals."""
        presented = self._fingerprint(metadata) if self._per_minute else None
        if presented is None:  # nothing was guessed
            yield
            return
        take = Take(site_of(find_caller_address()), self._rate)
        if presented not in self._good:
            standing = self._buckets.look(take)
            if not standing.remaining:
                raise self._refusal(take.key, standing.retry_in)
        try:
            yield
        except MeshError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                self._good.pop(presented, None)
                self._buckets.take([take])
            raise
        self._good[presented] = None
        self._good.move_to_end(presented)
        if len(self._good) > _MOST_GOOD:
            self._good.popitem(last=False)

    def _fingerprint(self, metadata: Metadata) -> bytes | None:
        shown = [value for name, value in metadata if name in _HEADERS]
        if not shown:
            return None
        digest = hashlib.blake2b(key=self._salt, digest_size=16)
        for value in shown:
            digest.update(value if isinstance(value, bytes) else value.encode())
            digest.update(b"\0")
        return digest.digest()

    def _refusal(self, site: str, retry_in: float) -> MeshError:
        quota = f"{self._per_minute} refused credentials a minute from one address"
        error = MeshError.rate_limited(
            f"too many credentials from your address were refused: {quota}", retry_in
        )
        error.quotas = (QuotaViolation(f"address:{site}", quota),)
        return error


def site_of(address: str) -> str:
    """Who counts as one caller: an IPv4 address, or an IPv6 network of 64 bits."""
    if ":" not in address:
        return address or "unknown"
    try:
        return str(ipaddress.ip_network(f"{address}/{_IPV6_SITE}", strict=False))
    except ValueError:
        return address
