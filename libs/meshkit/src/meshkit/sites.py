"""Who counts as one caller as long as nobody knows who calls."""

from __future__ import annotations

import ipaddress

_IPV6_SITE = 64


def site_of(address: str) -> str:
    """An IPv4 address, or an IPv6 network of 64 bits."""
    if ":" not in address:
        return address or "unknown"
    try:
        return str(ipaddress.ip_network(f"{address}/{_IPV6_SITE}", strict=False))
    except ValueError:
        return address
