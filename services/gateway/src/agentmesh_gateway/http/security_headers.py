"""What browsers are told about every response."""

from __future__ import annotations

from agentmesh_gateway.rest.asgi import Headers

SECURITY_HEADERS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
"""What every response says that does not say otherwise."""
