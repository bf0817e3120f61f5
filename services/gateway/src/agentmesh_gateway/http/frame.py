"""The outermost layer of the HTTP edge: who really calls, and what every response says."""

from __future__ import annotations

from typing import Any

from meshkit.caller_address import enter_caller_address

from agentmesh_gateway.http.proxies import Caller, TrustedProxies
from agentmesh_gateway.limits.report import expect_report
from agentmesh_gateway.rest.asgi import Message, Receive, Scope, Send
from agentmesh_gateway.rest.responder import SECURITY_HEADERS

_HSTS = b"strict-transport-security"


class HttpFrame:
    """Around an ASGI application.

    Sets the caller's address for it, and the scheme that the caller used; adds to responses the
    security headers that they lack, HSTS where they travel over TLS, and what the caller's rate
    limits leave.
    """

    def __init__(self, app: Any, proxies: TrustedProxies, hsts_seconds: int) -> None:
        self._app = app
        self._proxies = proxies
        self._hsts = (_HSTS, f"max-age={hsts_seconds}".encode()) if hsts_seconds else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        caller = self._caller(scope)
        enter_caller_address(caller.address)
        if caller.address != _peer_of(scope):
            scope["client"] = (caller.address, 0)  # nobody says from which port
        if caller.scheme:
            upgraded = {"websocket": {"http": "ws", "https": "wss"}}
            scope["scheme"] = upgraded.get(scope["type"], {}).get(caller.scheme, caller.scheme)
        report = expect_report()
        secure = scope["scheme"] in ("https", "wss")

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [pair for pair in SECURITY_HEADERS if pair[0] not in present]
                if secure and self._hsts is not None:
                    added.append(self._hsts)
                message["headers"] = [*message["headers"], *added, *report.headers()]
            await send(message)

        await self._app(scope, receive, framed)

    def _caller(self, scope: Scope) -> Caller:
        address = _peer_of(scope)
        if not self._proxies.trusts(address):
            return Caller(address)
        headers = (
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        )
        return self._proxies.resolve(address, headers)


def _peer_of(scope: Scope) -> str:
    client = scope.get("client")
    return client[0].removeprefix("::ffff:") if client else "unix"
