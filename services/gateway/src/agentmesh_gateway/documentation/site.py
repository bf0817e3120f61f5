"""Serves the pages before the API: they need no credentials, as the contract is no secret."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from typing import Final

import orjson
import swagger_ui_bundle
from google.protobuf.descriptor import ServiceDescriptor
from meshkit.errors import MeshError

from agentmesh_gateway.documentation.pages import Page, is_known
from agentmesh_gateway.limits.strangers import Strangers
from agentmesh_gateway.openapi.document import openapi_document
from agentmesh_gateway.rest.asgi import App, Headers, Receive, Scope, Send
from agentmesh_gateway.rest.errors import method_not_allowed, status_of
from agentmesh_gateway.rest.responder import Responder
from agentmesh_gateway.rest.routes import Route

_METHODS: Final = ("GET", "HEAD")
_DOCUMENT: Final = "/openapi.json"
_ASSETS: Final = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
# The page loads and calls its own origin alone. The library sets styles of elements; what it
# shows comes from our own document.
_PAGE_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_OF_THE_PAGE: Headers = [(b"content-security-policy", _PAGE_POLICY.encode())]
# Pages of anybody's may read the document: it is the same for all, and nothing of a tenant's.
_FOR_ALL_ORIGINS: Headers = [(b"access-control-allow-origin", b"*")]


class Documentation:
    """An ASGI application: the pages, and behind them another application."""

    def __init__(
        self,
        behind: App,
        routes: Sequence[Route],
        services: Sequence[ServiceDescriptor],
        strangers: Strangers,
    ) -> None:
        self._behind = behind
        self._strangers = strangers
        self._routes = routes
        self._services = services

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One HTTP request."""
        page = self._pages.get(scope["path"]) if scope["type"] == "http" else None
        if page is None:
            return self._behind(scope, receive, send)
        return self._serve(page, scope, send)

    async def _serve(self, page: Page, scope: Scope, send: Send) -> None:
        try:
            self._strangers.require("page")
        except MeshError as error:
            await Responder(send, []).error(status_of(error))
        else:
            await _serve(page, scope, send)

    @cached_property
    def _pages(self) -> dict[str, Page]:
        ours = files("agentmesh_gateway.documentation")
        theirs = swagger_ui_bundle.swagger_ui_path
        document = openapi_document(self._routes, self._services, version("agentmesh-gateway"))
        html = Page("text/html; charset=utf-8", (ours / "index.html").read_bytes(), _OF_THE_PAGE)
        script = Page(_ASSETS["swagger-ui-bundle.js"], (ours / "start.js").read_bytes())
        return {
            _DOCUMENT: Page("application/json", orjson.dumps(document), _FOR_ALL_ORIGINS),
            "/docs": html,
            "/docs/start.js": script,
            **{
                f"/docs/{name}": Page(content_type, (theirs / name).read_bytes())
                for name, content_type in _ASSETS.items()
            },
        }


async def _serve(page: Page, scope: Scope, send: Send) -> None:
    method = scope["method"]
    if method not in _METHODS:
        await _refuse(scope["path"], method, send)
        return
    asked = dict(scope["headers"])
    body, headers = page.represent(asked.get(b"accept-encoding", b"").decode("latin-1"))
    if is_known(asked.get(b"if-none-match", b"").decode("latin-1"), headers):
        kept = [pair for pair in headers if pair[0] not in (b"content-length", b"content-type")]
        await _send(send, 304, b"", kept)
    else:
        await _send(send, 200, b"" if method == "HEAD" else body, headers)


async def _refuse(path: str, method: str, send: Send) -> None:
    answer = Responder(send, [])
    allow: Headers = [(b"allow", ", ".join([*_METHODS, "OPTIONS"]).encode())]
    if method == "OPTIONS":
        await answer.empty(204, allow)
    else:
        await answer.error(status_of(method_not_allowed(path, method, _METHODS)), 405, allow)


async def _send(send: Send, status: int, body: bytes, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
