"""Who really calls, where proxies stand between: only those that the operator names are believed.

Each proxy adds the address that it was called from at the right, so that from the right the first
one that is not itself a trusted proxy is the caller. What stands further left may be invented.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meshkit.caller_address import address_of_peer

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_FORWARDED_FOR = "x-forwarded-for"
_FORWARDED_PROTO = "x-forwarded-proto"
_FORWARDED = "forwarded"
_MOST_HOPS = 32
_PAIR = re.compile(r'\s*(for|proto)\s*=\s*("[^"]*"|[^;,\s]*)\s*', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from, and over what: "http" or "https", "" if nobody says."""

    address: str
    scheme: str = ""


class TrustedProxies:
    """Networks whose word about callers is taken. Raises ValueError for what is no network."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: tuple[Network, ...] = tuple(
            ipaddress.ip_network(network, strict=False) for network in networks
        )

    def trusts(self, address: str) -> bool:
        """Whether `address` is one of them."""
        if not self._networks:
            return False
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._networks)

    def resolve(self, address: str, headers: Iterable[tuple[str, str]]) -> Caller:
        """The caller of a request that came from `address`. Header names are lower-case."""
        if not self.trusts(address):
            return Caller(address)
        wanted: dict[str, list[str]] = {}
        for name, value in headers:
            if name in (_FORWARDED_FOR, _FORWARDED_PROTO, _FORWARDED):
                wanted.setdefault(name, []).append(value)
        hops, scheme = _from_forwarded(wanted.get(_FORWARDED, ()))
        if _FORWARDED_FOR in wanted:
            hops = [part.strip() for part in ",".join(wanted[_FORWARDED_FOR]).split(",")]
        if _FORWARDED_PROTO in wanted:
            scheme = wanted[_FORWARDED_PROTO][-1].rpartition(",")[2].strip().lower()
        return Caller(self._caller(address, hops), scheme if scheme in ("http", "https") else "")

    def address_of_call(self, context: Any) -> str:
        """The caller's address of a gRPC call; "" if it did not come over a network."""
        address = address_of_peer(context.peer() or "")
        if not self._networks or not address:
            return address
        pairs = ((key, str(value)) for key, value in context.invocation_metadata() or ())
        return self.resolve(address, pairs).address

    def _caller(self, nearest: str, hops: Sequence[str]) -> str:
        caller = nearest
        for hop in reversed(hops[-_MOST_HOPS:]):
            address = _bare(hop)
            if not address:
                break
            caller = address
            if not self.trusts(address):
                break
        return caller


def _from_forwarded(values: Iterable[str]) -> tuple[list[str], str]:
    """Of `Forwarded` (RFC 7239): all hops, and the scheme that the last one saw."""
    hops, scheme = [], ""
    for element in ",".join(values).split(","):
        fields = {name.lower(): value.strip('"') for name, value in _PAIR.findall(element)}
        if "for" in fields:
            hops.append(fields["for"])
        scheme = fields.get("proto", "").lower()
    return hops, scheme


def _bare(hop: str) -> str:
    """The address without port and brackets; "" if it is none."""
    text = hop.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
