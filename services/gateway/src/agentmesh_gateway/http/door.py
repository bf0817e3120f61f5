"""Accepts connections, and counts each before anything else is done for it.

An event loop's own server tells nobody of a connection before its TLS handshake has ended, so that
handshakes that never end would be in no count.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from agentmesh_gateway.http.connections import Connections, Place, TooManyConnectionsError

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_AT_ONCE = 64
_PAUSE_SECONDS = 1.0
_GOODBYE_SECONDS = 5.0
_NOTHING_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

MakeProtocol = Callable[[Place], asyncio.Protocol]
"""The protocol of a connection, which gives its place back when the connection is lost."""


class Door:
    """Takes what `listener` accepts for as long as there are places; `tls` is None for plain HTTP.
    A handshake has `handshake_seconds`, or as many as the event loop gives it if that is 0."""

    def __init__(
        self,
        listener: socket.socket,
        connections: Connections,
        make_protocol: MakeProtocol,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        self._listener = listener
        self._connections = connections
        self._make_protocol = make_protocol
        self._tls = tls
        self._handshake_seconds = handshake_seconds
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begins to accept."""
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accepts no more, and leaves handshakes that have not ended."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        for task in self._arriving:
            task.cancel()

    async def wait_closed(self) -> None:
        """Returns when nobody is at the door any more."""
        await asyncio.gather(*self._arriving, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NOTHING_LEFT:
                    raise
                # It stays readable: without a pause the loop would do nothing else.
                logger.warning("no connection can be accepted now: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(
                    _PAUSE_SECONDS, self._loop.add_reader, self._listener, self._accept
                )
                return
            connection.setblocking(False)
            self._receive(connection, address[0] if address else "unix")

    def _receive(self, connection: socket.socket, address: str) -> None:
        try:
            place = self._connections.enter(address)
        except TooManyConnectionsError as error:
            with connection:
                if self._tls is None:  # else nobody would understand it
                    connection.send(error.refusal.response())
            return
        task = self._loop.create_task(self._welcome(connection, place))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _welcome(self, connection: socket.socket, place: Place) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make_protocol(place),
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=(self._handshake_seconds or None) if self._tls else None,
                ssl_shutdown_timeout=_GOODBYE_SECONDS if self._tls else None,
            )
        except BaseException as error:
            place.leave()
            connection.close()
            if not isinstance(error, OSError):
                raise
            logger.debug("a connection did not come about: %s", error)
