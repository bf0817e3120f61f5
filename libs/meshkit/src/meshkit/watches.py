"""Streams that anybody may open, without credentials, and hold for as long as they like: watches
of health, and reflection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from meshkit.caller_address import address_of_peer
from meshkit.counts import Counts
from meshkit.errors import MeshError, QuotaViolation
from meshkit.sites import site_of

_ALL = "watches"


class Watches:
    """At most `most` of them at once, and `most_of_a_site` of one address; 0 is no limit."""

    def __init__(self, most: int, most_of_a_site: int) -> None:
        self._most = most
        self._most_of_a_site = most_of_a_site
        self._counts = Counts()

    @contextmanager
    def one(self, peer: str) -> Iterator[None]:
        """A place for a stream of `peer`, as gRPC calls it. Raises MeshError RESOURCE_EXHAUSTED."""
        site = f"address:{site_of(address_of_peer(peer))}"
        self._require_room(site, self._most_of_a_site)
        self._require_room(_ALL, self._most)
        keys = (site, _ALL)
        self._counts.add(keys)
        try:
            yield
        finally:
            self._counts.remove(keys)

    def _require_room(self, holder: str, bound: int) -> None:
        if 0 < bound <= self._counts[holder]:
            quota = f"{bound} watches of health and streams of reflection at once"
            raise MeshError.quota_exceeded([QuotaViolation(holder, quota)])
