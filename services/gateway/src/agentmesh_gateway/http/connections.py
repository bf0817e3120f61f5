"""How many connections there may be. Each has its place from the moment that it is accepted until
it is closed: while it shakes hands, and as whatever it is upgraded to."""

from __future__ import annotations

from meshkit.counts import Counts
from meshkit.sites import site_of

from agentmesh_gateway.http import refusals
from agentmesh_gateway.http.proxies import TrustedProxies

_ALL = "all"


class TooManyConnectionsError(Exception):
    """There is no place; `refusal` is what to answer."""

    def __init__(self, refusal: refusals.Refusal) -> None:
        super().__init__(refusal.error.message)
        self.refusal = refusal


class Place:
    """One connection's."""

    __slots__ = ("_counts", "_keys")

    def __init__(self, counts: Counts, keys: tuple[str, ...]) -> None:
        self._counts = counts
        self._keys = keys
        counts.add(keys)

    def leave(self) -> None:
        """Gives it back; the second call does nothing."""
        keys, self._keys = self._keys, ()
        self._counts.remove(keys)


class Connections:
    """At most `most` of them, and `most_of_a_site` of each address, but for proxies that are
    trusted; 0 is no limit."""

    def __init__(self, most: int, most_of_a_site: int, proxies: TrustedProxies) -> None:
        self._most = most
        self._most_of_a_site = most_of_a_site
        self._proxies = proxies
        self._counts = Counts()

    def __len__(self) -> int:
        return self._counts[_ALL]

    def enter(self, address: str) -> Place:
        """A place for a connection from `address`. Raises TooManyConnectionsError."""
        if 0 < self._most <= len(self):
            raise TooManyConnectionsError(refusals.too_many("there are too many connections"))
        # An IPv6 socket gives addresses of IPv4 in its own form.
        address = address.removeprefix("::ffff:")
        if self._proxies.trusts(address):
            return Place(self._counts, (_ALL,))
        site = f"site:{site_of(address)}"
        if 0 < self._most_of_a_site <= self._counts[site]:
            raise TooManyConnectionsError(
                refusals.too_many("there are too many connections from your address")
            )
        return Place(self._counts, (_ALL, site))
