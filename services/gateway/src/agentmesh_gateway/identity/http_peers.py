"""Notes who is at the other end of an HTTP connection, before anything rewrites the request."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentmesh_gateway.identity import peer

_CERTIFICATE = "agentmesh_peer_certificate"


class CertificateProtocol(HttpToolsProtocol):
    """HTTP that puts the client's verified certificate into the state of its requests."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Once for each connection."""
        super().connection_made(transport)
        secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if secured is not None:
            self.app_state = {**self.app_state, _CERTIFICATE: secured.getpeercert()}


class WithPeer:
    """An ASGI application that knows the peer of the request it serves."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request or socket."""
        host = (scope.get("client") or ("", 0))[0]
        certificate = scope.get("state", {}).get(_CERTIFICATE)
        peer.enter_call(peer.http_peer(host, certificate))
        await self._app(scope, receive, send)
