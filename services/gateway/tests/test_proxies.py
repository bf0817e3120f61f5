"""Who calls, where proxies stand between."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh_gateway.http.proxies import Caller, TrustedProxies
from agentmesh_gateway.settings import GatewaySettings
from meshkit.caller_address import address_of_peer
from pydantic import ValidationError

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])
FOR, PROTO, FORWARDED = "x-forwarded-for", "x-forwarded-proto", "forwarded"


@pytest.mark.parametrize(
    ("peer", "headers", "caller"),
    [
        # Nobody vouches for what a stranger says.
        ("192.0.2.1", [(FOR, "1.1.1.1"), (PROTO, "https")], Caller("192.0.2.1")),
        ("192.0.2.1", [(FORWARDED, "for=1.1.1.1;proto=https")], Caller("192.0.2.1")),
        # One proxy, two, and a caller who invents some.
        ("10.0.0.1", [(FOR, "203.0.113.9")], Caller("203.0.113.9")),
        ("10.0.0.1", [(FOR, "203.0.113.9, 10.0.0.2")], Caller("203.0.113.9")),
        ("10.0.0.1", [(FOR, "1.1.1.1, 203.0.113.9, 10.0.0.2")], Caller("203.0.113.9")),
        ("10.0.0.1", [(FOR, "1.1.1.1"), (FOR, "203.0.113.9")], Caller("203.0.113.9")),
        # All of them proxies: the farthest.
        ("10.0.0.1", [(FOR, "10.0.0.3, 10.0.0.2")], Caller("10.0.0.3")),
        # What is no address ends the chain where it was right.
        ("10.0.0.1", [(FOR, "203.0.113.9, unknown, 10.0.0.2")], Caller("10.0.0.2")),
        ("10.0.0.1", [(FOR, "")], Caller("10.0.0.1")),
        ("10.0.0.1", [(FOR, "<script>")], Caller("10.0.0.1")),
        ("10.0.0.1", [], Caller("10.0.0.1")),
        # Ports and brackets.
        ("10.0.0.1", [(FOR, "203.0.113.9:4711")], Caller("203.0.113.9")),
        ("10.0.0.1", [(FOR, "[2001:db9::1]:443")], Caller("2001:db9::1")),
        ("2001:db8::7", [(FOR, "2001:db9::1")], Caller("2001:db9::1")),
        # The scheme.
        ("10.0.0.1", [(PROTO, "https")], Caller("10.0.0.1", "https")),
        ("10.0.0.1", [(PROTO, "http, https")], Caller("10.0.0.1", "https")),
        ("10.0.0.1", [(PROTO, "javascript")], Caller("10.0.0.1")),
        # RFC 7239.
        (
            "10.0.0.1",
            [(FORWARDED, 'for=1.1.1.1, for="203.0.113.9:1";proto=https;by=10.0.0.1')],
            Caller("203.0.113.9", "https"),
        ),
        ("10.0.0.1", [(FORWARDED, 'For="[2001:db9::1]:1"')], Caller("2001:db9::1")),
        ("10.0.0.1", [(FORWARDED, "for=_hidden")], Caller("10.0.0.1")),
    ],
)
def test_the_rightmost_address_that_is_no_proxy(
    peer: str, headers: list[tuple[str, str]], caller: Caller
) -> None:
    assert PROXIES.resolve(peer, headers) == caller


def test_without_proxies_nobody_is_believed() -> None:
    none = TrustedProxies([])
    assert none.resolve("10.0.0.1", [(FOR, "1.1.1.1")]) == Caller("10.0.0.1")


def test_a_long_chain_costs_little() -> None:
    chain = ", ".join(["10.0.0.2"] * 100_000)
    assert PROXIES.resolve("10.0.0.1", [(FOR, chain)]) == Caller("10.0.0.2")


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:4711", "10.0.0.7"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::ffff:10.0.0.7]:4711", "10.0.0.7"),
        ("unix:/run/socket", "unix"),
        ("inproc:rest", ""),
        ("", ""),
    ],
)
def test_peers_as_grpc_writes_them(peer: str, address: str) -> None:
    assert address_of_peer(peer) == address


@pytest.mark.parametrize(
    "wrong",
    [
        {"trusted_proxies": ("everybody",)},
        {"cors_allow_origins": ("console.example",)},
        {"cors_allow_origins": ("https://console.example/path",)},
        {"cors_allow_origins": ("https://*.example",)},
        {"cors_allow_origins": ("null",)},
        {"redis_url": "http://redis"},
        {"requests_per_second": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(**wrong)
