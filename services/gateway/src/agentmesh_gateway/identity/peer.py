"""What the connection of a call shows, whatever the call says."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: an address, None if it is not one of a network, and the URIs of the
    certificate that they proved to have; `has_certificate` is true for one without any."""

    address: Address | None = None
    uris: tuple[str, ...] = ()
    has_certificate: bool = False


NOBODY = Peer()

_of_this_call: ContextVar[Peer] = ContextVar("gateway_peer", default=NOBODY)


def enter_call(peer: Peer) -> None:
    """The running task serves a call from `peer`."""
    _of_this_call.set(peer)


def current_peer() -> Peer:
    """Whom the running task serves."""
    return _of_this_call.get()


def grpc_peer(name: str, certificate: Mapping[str, Iterable[bytes]]) -> Peer:
    """From the peer's name and the authentication context of a gRPC call."""
    kind, _, rest = unquote(name).partition(":")
    host = rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
    uris = tuple(value.decode("latin-1") for value in certificate.get("peer_uri", ()))
    return Peer(address_of(host), uris, "x509_pem_cert" in certificate)


def http_peer(host: str, certificate: Mapping[str, Any] | None) -> Peer:
    """From the address of an HTTP connection and its certificate, as `ssl` describes one that it
    verified."""
    names = (certificate or {}).get("subjectAltName", ())
    return Peer(
        address_of(host), tuple(value for kind, value in names if kind == "URI"), bool(certificate)
    )


def address_of(host: str) -> Address | None:
    """The address; an IPv4 one that is written as IPv6 is the IPv4 one."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
