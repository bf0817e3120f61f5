"""uvicorn inside a service that has an event loop and a way to stop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import uvicorn
from meshkit.server import StartupError

from agentmesh_gateway.http.connections import Connections, Place
from agentmesh_gateway.http.door import Door
from agentmesh_gateway.http.limits import BoundedHttpProtocol, HttpLimits, bounded
from agentmesh_gateway.http.proxies import TrustedProxies
from agentmesh_gateway.http.tls import following
from agentmesh_gateway.http.websockets import bounded_websockets
from agentmesh_gateway.limits.edges import http_connections
from agentmesh_gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

_CLIENT_CERTIFICATES = {
    "ignored": ssl.CERT_NONE,
    "accepted": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_PING_SECONDS = 20.0
"""How often a WebSocket is asked for a sign of life, and how long it may take to answer."""


class _Server(uvicorn.Server):
    """Connections come to it through a door, and signals do not."""

    def __init__(
        self, config: uvicorn.Config, connections: Connections, handshake_seconds: float
    ) -> None:
        super().__init__(config)
        self._counted = connections
        self._handshake_seconds = handshake_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens a door at each socket."""
        doors = [
            Door(one, self._counted, self._protocol, self.config.ssl, self._handshake_seconds)
            for one in sockets or ()
        ]
        for door in doors:
            door.open()
        # They are closed and waited for, as servers of the event loop would be.
        self.servers = cast("list[asyncio.base_events.Server]", doors)
        self.started = True

    def _protocol(self, place: Place) -> asyncio.Protocol:
        make = cast("type[BoundedHttpProtocol]", self.config.http_protocol_class)
        protocol = make(self.config, self.server_state, self.lifespan.state)
        protocol.place = place
        return protocol

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to the service, which stops both of its edges."""
        yield


class HttpServer:
    """Serves an ASGI application from the running loop."""

    def __init__(self, app: Any, settings: GatewaySettings, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies
        self._settings = settings
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listens; returns the address as a URL. Raises StartupError."""
        settings = self._settings
        listener = _listen(settings.app_host, settings.app_port)
        limits = _limits(settings)
        config = uvicorn.Config(
            self._app,
            http=bounded(limits),
            ws=bounded_websockets(limits),
            ws_max_size=settings.max_message_bytes,
            ws_ping_interval=_PING_SECONDS,
            ws_ping_timeout=_PING_SECONDS,
            # A small frame must not become a large one.
            ws_per_message_deflate=False,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # Below that it says a line about each request that is no HTTP.
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.http_keep_alive_seconds,
            timeout_graceful_shutdown=int(settings.drain_seconds) + 1,
            ssl_certfile=settings.tls_cert_file if settings.http_tls else None,
            ssl_keyfile=settings.tls_key_file if settings.http_tls else None,
            ssl_ca_certs=_client_ca(settings),
            ssl_context_factory=_context_factory(settings),
            ssl_cert_reqs=_CLIENT_CERTIFICATES[settings.http_client_cert],
        )
        self._server = _Server(config, _connections(settings, self._proxies), limits.header_seconds)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise StartupError(f"cannot serve HTTP on {settings.app_host}")
            await asyncio.sleep(0.005)
        scheme = "https" if settings.http_tls else "http"
        address = f"{scheme}://{_reachable(listener)}"
        logger.info("the gateway serves REST on %s", address)
        return address

    async def drain(self) -> None:
        """Takes no more connections and closes idle ones; does not wait."""
        if self._server is not None:
            self._server.should_exit = True

    async def stop(self) -> None:
        """Waits for requests under way, for as long as a drain may take."""
        await self.drain()
        if self._task is not None:
            await self._task


def _context_factory(settings: GatewaySettings) -> Any:
    if not settings.http_tls or settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return following(settings.tls_cert_file, settings.tls_key_file)


def _client_ca(settings: GatewaySettings) -> Path | None:
    if settings.http_client_cert == "ignored":
        return None
    return settings.tls_client_ca_file or settings.tls_ca_file


def _limits(settings: GatewaySettings) -> HttpLimits:
    return HttpLimits(
        header_seconds=settings.http_header_seconds,
        header_bytes=settings.http_max_header_bytes,
        body_bytes_per_second=settings.http_min_body_bytes_per_second,
        body_seconds=settings.http_body_seconds,
        write_seconds=settings.http_write_seconds,
    )


def _connections(settings: GatewaySettings, proxies: TrustedProxies) -> Connections:
    return Connections(
        http_connections(settings), settings.http_max_connections_per_address, proxies
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, because asyncio sends small writes at once only on sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot serve HTTP on {host}:{port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


def _reachable(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
