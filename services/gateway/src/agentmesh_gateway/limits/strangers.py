"""What everybody may ask for without saying who they are: so much a second for each address."""

from __future__ import annotations

from meshkit.caller_address import find_caller_address
from meshkit.sites import site_of

from agentmesh_gateway.limits.buckets import LocalBuckets, Rate, Take
from agentmesh_gateway.limits.shares import Shares

_BURST_SECONDS = 2
_MOST_ADDRESSES = 100_000


class Strangers:
    """Each kind of thing has buckets of its own. 0 is no limit."""

    def __init__(self, per_second: int) -> None:
        self._rate = Rate(per_second, per_second * _BURST_SECONDS) if per_second else None
        self._buckets = LocalBuckets(_MOST_ADDRESSES)

    def require(self, kind: str) -> None:
        """Takes from what the address may have that the running task serves. Raises MeshError
        RATE_LIMITED."""
        if self._rate is None:
            return
        site = site_of(find_caller_address())
        shares = Shares((Take(f"{kind}/{site}", self._rate),), (f"address:{site}",))
        shares.require(self._buckets.take(shares.takes))
