"""`GET /metrics`, for who watches over the installation and nobody else.

The figures are of all tenants, so that no tenant's key opens them: a token of its own does. Without
one only programs of this machine are answered, and none that a proxy speaks for.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Mapping

from meshkit.errors import MeshError
from meshkit.ids import new_id
from meshkit.settings import is_loopback
from pydantic import SecretStr

from agentmesh_gateway.limits.credential_guard import CredentialGuard
from agentmesh_gateway.metrics.gathering import MeshMetrics
from agentmesh_gateway.rest.asgi import App, Receive, Scope, Send
from agentmesh_gateway.rest.errors import status_of
from agentmesh_gateway.rest.request_headers import REQUEST_ID
from agentmesh_gateway.rest.responder import Responder
from agentmesh_gateway.rest.same_machine import require_this_machine

PATH = "/metrics"
_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_PROXIES_SAY = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")
_HOW = "send AGENTMESH_METRICS_TOKEN as `authorization: Bearer …`"


class MetricsEndpoint:
    """Serves the figures, and leaves every other request to `inner`."""

    def __init__(
        self,
        inner: App,
        metrics: MeshMetrics,
        token: SecretStr | None,
        guard: CredentialGuard,
    ) -> None:
        self._inner = inner
        self._metrics = metrics
        self._guard = guard
        self._token = token.get_secret_value().encode() if token else b""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One HTTP request."""
        if scope["path"] != PATH or scope["method"] not in ("GET", "HEAD"):
            return self._inner(scope, receive, send)
        return self._serve(scope, send)

    async def _serve(self, scope: Scope, send: Send) -> None:
        request_id = (REQUEST_ID, new_id("req").encode())
        answer = Responder(send, [request_id], without_body=scope["method"] == "HEAD")
        try:
            headers: dict[bytes, bytes] = dict(scope["headers"])
            await self._guard.judged(_shown_in(headers), lambda: self._require(scope, headers))
        except MeshError as error:
            await answer.error(status_of(error))
            return
        await answer.begin(_CONTENT_TYPE)
        await answer.chunk((await self._metrics.exposition()).encode())
        await answer.end()

    async def _require(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        if self._token:
            _require_token(headers, self._token)
            return
        client = scope.get("client")
        if client is None or not is_loopback(client[0]) or any(h in headers for h in _PROXIES_SAY):
            raise MeshError.credentials_missing(
                f"without AGENTMESH_METRICS_TOKEN only this machine may read {PATH}; set it"
            )
        require_this_machine(headers, ())


def _shown_in(headers: Mapping[bytes, bytes]) -> str:
    return headers.get(b"authorization", b"").decode("latin-1").strip()


def _require_token(headers: Mapping[bytes, bytes], token: bytes) -> None:
    scheme, _, secret = headers.get(b"authorization", b"").partition(b" ")
    if not secret:
        raise MeshError.credentials_missing(f"{PATH} has a token: {_HOW}")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(secret.strip(), token):
        raise MeshError.credentials_invalid(f"this is not the token of {PATH}: {_HOW}")
