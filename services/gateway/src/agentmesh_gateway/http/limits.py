"""An HTTP connection that cannot be held for nothing.

uvicorn closes connections that idle between two requests. It does not bound how long a request's
head may take, how long it may be, or how slowly a body comes or a response goes: this does.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, cast

from httptools import HttpParserError

from agentmesh_gateway.http import refusals
from agentmesh_gateway.http.connections import Place
from agentmesh_gateway.http.handshakes import WebSocketProtocol
from agentmesh_gateway.http.whole_response import WHOLE_RESPONSE, WholeResponse
from agentmesh_gateway.identity.http_peers import CertificateProtocol


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one connection may do; 0 is no limit."""

    header_seconds: float
    """From the first byte, or from the beginning of the connection, to the end of the head."""
    header_bytes: int
    body_bytes_per_second: int
    """On average over each span of `body_seconds`, while the gateway wants more."""
    body_seconds: float
    write_seconds: float
    """How long the client may take nothing of a response that is ready."""


class _Phase(Enum):
    HEAD = 1
    BODY = 2
    REST = 3
    """The request is complete, or was refused."""


class BoundedHttpProtocol(CertificateProtocol):
    """One connection under `limits`, which gives `place` back at its end."""

    limits: ClassVar[HttpLimits]
    place: Place

    _phase = _Phase.HEAD
    _refused = False
    _head_bytes = 0
    _body_bytes = 0
    _packet_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    # --- the connection ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for a request."""
        # A stream server gives a Transport; that of uvloop only behaves as one.
        super().connection_made(cast("asyncio.Transport", transport))
        self._begin_head()
        self._wait_for_more()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives back its place."""
        self._stop_timers()
        self.place.leave()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """From here on it is a stream, which others bound; its place goes with it."""
        self._stop_timers()
        super().handle_websocket_upgrade()
        upgraded = self.transport.get_protocol()
        if isinstance(upgraded, WebSocketProtocol):
            upgraded.place = self.place

    def _stop_timers(self) -> None:
        self._set_timer(None)
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    # --- what comes --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Counts what it passes on."""
        if self._refused:
            return
        if self._phase is _Phase.REST and (self.cycle is None or self.cycle.response_complete):
            # Before the parser sees a request in it: it skips empty lines, as many as there are.
            self._begin_head()
        if self._phase is _Phase.HEAD:
            self._head_bytes += len(data)
        else:
            self._body_bytes += len(data)
        self._packet_bytes = len(data)
        super().data_received(data)
        if self._phase is _Phase.HEAD and self._is_too_long(self._head_bytes):
            self._refuse_head()
        if self._timer is None:
            # Most requests come in one piece, and nothing of them is waited for.
            self._wait_for_more()

    def on_message_begin(self) -> None:
        """A request begins; one that came in the same packet as the end of another, too."""
        super().on_message_begin()
        if self._phase is not _Phase.HEAD:
            self._begin_head()

    def on_headers_complete(self) -> None:
        """Hands the request on, unless its head is too long."""
        if self._is_too_long(self._head_bytes + self._packet_bytes) and self._is_too_long(
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        ):
            self._refuse_head()
            return
        self._phase = _Phase.BODY
        self._body_bytes = 0
        self._set_timer(None)
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            self.scope["state"][WHOLE_RESPONSE] = WholeResponse(self.cycle)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self._refused:
            return
        self._phase = _Phase.REST
        self._set_timer(None)
        super().on_message_complete()

    def _is_too_long(self, head: int) -> bool:
        return 0 < self.limits.header_bytes < head

    def _begin_head(self) -> None:
        self._phase = _Phase.HEAD
        self._head_bytes = 0
        self._set_timer(None)

    def _wait_for_more(self) -> None:
        """Bounds the time for what is not there yet."""
        seconds = self.limits.header_seconds
        if self._phase is _Phase.HEAD and seconds:
            self._set_timer(self.loop.call_later(seconds, self._head_is_late))
        elif self._phase is _Phase.BODY:
            self._watch_body()

    def _head_is_late(self) -> None:
        self._refuse(refusals.too_slow("the head of the request took too long"))

    def _refuse_head(self) -> None:
        self._refuse(refusals.too_long_a_head(self.limits.header_bytes))

    def _watch_body(self) -> None:
        seconds = self.limits.body_seconds
        if seconds and self.limits.body_bytes_per_second:
            self._set_timer(self.loop.call_later(seconds, self._check_body))

    def _check_body(self) -> None:
        wanted = self.limits.body_bytes_per_second * self.limits.body_seconds
        # What the gateway does not take now, nobody can send.
        idle_for_us = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if self._body_bytes < wanted and not idle_for_us:
            self._refuse(refusals.too_slow("the body of the request came too slowly"))
            return
        self._body_bytes = 0
        self._watch_body()

    # --- what goes ---------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        super().pause_writing()
        if self.limits.write_seconds and self._stalled is None:
            self._stalled = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """Of what is not HTTP: the parser says why in the exception that is handled here."""
        self._refuse(refusals.no_http(_parser_says(sys.exception())))

    def _refuse(self, refusal: refusals.Refusal) -> None:
        """Says why, unless a response is under way, and closes the connection."""
        self._refused = True
        self._phase = _Phase.REST
        self._set_timer(None)
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        if not (answering and self.cycle.response_started):
            self.transport.write(refusal.response())
        self.transport.close()

    def _set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer


def bounded(limits: HttpLimits) -> type[BoundedHttpProtocol]:
    """A protocol for one server."""

    class Protocol(BoundedHttpProtocol):
        pass

    Protocol.limits = limits
    return Protocol


def _parser_says(error: BaseException | None) -> str:
    return str(error) if isinstance(error, HttpParserError) else ""
