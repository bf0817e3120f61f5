"""Where the HTTP request being served comes from."""

from __future__ import annotations

from contextvars import ContextVar

from agentmesh_gateway.rest.asgi import Scope

_UNKNOWN = "http"
_peer: ContextVar[str] = ContextVar("agentmesh_http_peer", default=_UNKNOWN)


def enter_request(scope: Scope) -> None:
    """Remembers the client of a request for the rest of the running task."""
    client = scope.get("client")
    if not client:
        _peer.set(_UNKNOWN)
        return
    host, port = client[0], client[1]
    _peer.set(f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}")


def current_peer() -> str:
    """As gRPC writes peers, for example "ipv4:10.0.0.7:52110"."""
    return _peer.get()
