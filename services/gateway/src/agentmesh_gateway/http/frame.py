"""The outermost layer of the HTTP edge: who really calls, and what every response says."""

from __future__ import annotations

from typing import Any

from meshkit.caller_address import enter_caller_address

from agentmesh_gateway.http.proxies import TrustedProxies
from agentmesh_gateway.http.security_headers import SECURITY_HEADERS
from agentmesh_gateway.http.whole_response import WHOLE_RESPONSE, WholeResponse
from agentmesh_gateway.limits.report import RateReport, expect_report
from agentmesh_gateway.rest.asgi import Headers, Message, Receive, Scope, Send

_NAMES = frozenset(name for name, _ in SECURITY_HEADERS)
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
        address = _peer_of(scope)
        if self._proxies.trusts(address):
            address = self._believe(address, scope)
        enter_caller_address(address)
        hsts = self._hsts if scope["scheme"] in ("https", "wss") else None
        whole: WholeResponse | None = scope.get("state", {}).get(WHOLE_RESPONSE)
        await self._app(scope, receive, _Framed(send, whole, expect_report(), hsts))

    def _believe(self, proxy: str, scope: Scope) -> str:
        """The caller's address as a trusted proxy tells it; the request is rewritten as theirs."""
        headers = (
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        )
        caller = self._proxies.resolve(proxy, headers)
        if caller.address != proxy:
            scope["client"] = (caller.address, 0)  # nobody says from which port
        if caller.scheme:
            upgraded = {"websocket": {"http": "ws", "https": "wss"}}
            scope["scheme"] = upgraded.get(scope["type"], {}).get(caller.scheme, caller.scheme)
        return caller.address


def _peer_of(scope: Scope) -> str:
    client = scope.get("client")
    return client[0].removeprefix("::ffff:") if client else "unix"


class _Framed:
    """The `send` of one request."""

    __slots__ = ("_head", "_hsts", "_report", "_send", "_whole")

    def __init__(
        self,
        send: Send,
        whole: WholeResponse | None,
        report: RateReport,
        hsts: tuple[bytes, bytes] | None,
    ) -> None:
        self._send = send
        self._whole = whole
        self._report = report
        self._hsts = hsts
        self._head: Message | None = None

    async def __call__(self, message: Message) -> None:
        """Passes a message on, a head that may wait with its body."""
        if message["type"] == "http.response.start":
            named = dict(message["headers"])
            message["headers"] = [*message["headers"], *self._added(named)]
            if self._whole is not None and self._whole.takes(named):
                self._head = message
                return
        elif self._head is not None:
            head, self._head = self._head, None
            body = message.get("body", b"")
            if self._whole is not None and not message.get("more_body", False):
                await self._whole.write(head["status"], head["headers"], body)
                return
            await self._send(head)
        await self._send(message)

    def _added(self, named: dict[bytes, bytes]) -> Headers:
        added = self._report.headers()
        if _NAMES.isdisjoint(named):
            added += SECURITY_HEADERS
        else:
            added += [pair for pair in SECURITY_HEADERS if pair[0] not in named]
        if self._hsts is not None:
            added.append(self._hsts)
        return added
