"""A WebSocket that cannot be held, or fed, for nothing.

uvicorn takes any number of pings and of pieces of a message, reads the next message before anybody
asks for it, and waits for ever for a client that takes nothing: this does not.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from websockets.frames import Frame

from agentmesh_gateway.http.handshakes import WebSocketProtocol

_CONTROL_FRAMES_A_SECOND = 10
_CONTROL_FRAMES_AT_ONCE = 100
_MOST_FRAGMENTS = 4096
_PARSED_BYTES = 4096
"""A small frame becomes objects of a hundred times its size: no more of them at a time."""
_POLICY_VIOLATION = 1008


class BoundedWebSocketProtocol(WebSocketProtocol):
    """One connection. Nothing is read but the message that the application waits for."""

    write_seconds: ClassVar[float]
    """How long the client may take nothing of what is ready; 0 is no limit."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._came = b""
        self._parsed = 0
        self._control_full_at = 0.0
        self._stalled: asyncio.TimerHandle | None = None
        self._last_chance: asyncio.TimerHandle | None = None

    # --- what comes --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Keeps what comes until it is asked for."""
        self._came = self._came[self._parsed :] + data
        self._parsed = 0
        self._parse()

    async def receive(self) -> Any:
        """The next message; reads on only now."""
        if self.read_paused and self.queue.empty():
            self._read_on()
        return await self.queue.get()

    def handle_ping(self) -> None:
        """Answers it."""
        if self._takes_control_frame():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Takes it, asked for or not."""
        if self._takes_control_frame():
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """A further piece of a message; pieces may be empty, so that they have a number."""
        if len(self.frames) >= _MOST_FRAGMENTS:
            self._refuse(f"a message in more than {_MOST_FRAGMENTS} pieces")
        else:
            super().handle_cont(event)

    def keepalive_timeout(self) -> None:
        """The client gave no sign of life. While nothing is read, it cannot."""
        if self.read_paused and self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self._abort_later()

    def _parse(self) -> None:
        while self._parsed < len(self._came) and not self.read_paused:
            piece = self._came[self._parsed : self._parsed + _PARSED_BYTES]
            self._parsed += len(piece)
            super().data_received(piece)
        if self._parsed == len(self._came):
            self._came, self._parsed = b"", 0

    def _read_on(self) -> None:
        self.read_paused = False
        self._parse()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _takes_control_frame(self) -> bool:
        if self.close_sent:
            return False
        now = self.loop.time()
        self._control_full_at = max(self._control_full_at, now) + 1 / _CONTROL_FRAMES_A_SECOND
        if self._control_full_at - now <= _CONTROL_FRAMES_AT_ONCE / _CONTROL_FRAMES_A_SECOND:
            return True
        self._refuse(f"more than {_CONTROL_FRAMES_A_SECOND} pings a second")
        return False

    def _refuse(self, reason: str) -> None:
        if not self.close_sent:
            self.conn.fail(_POLICY_VIOLATION, reason)
            self.handle_parser_exception()
            self._abort_later()

    # --- what goes ---------------------------------------------------------------------------

    async def send(self, message: Any) -> None:
        """Sends it; after a close, what still comes is read for the client's answer to that."""
        await super().send(message)
        if message["type"] == "websocket.close":
            self._parse()
            self._abort_later()

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        super().pause_writing()
        if self.write_seconds and self._stalled is None:
            self._stalled = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._forget_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets what the connection held."""
        self._forget_stall()
        if self._last_chance is not None:
            self._last_chance.cancel()
        self._came, self._parsed = b"", 0
        super().connection_lost(exc)

    def _forget_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _abort_later(self) -> None:
        """A transport that is closed waits until the client has taken everything."""
        if self._last_chance is None:
            self._last_chance = self.loop.call_later(self.close_timeout, self.transport.abort)


def bounded_websockets(write_seconds: float) -> type[BoundedWebSocketProtocol]:
    """A protocol for one server."""

    class Protocol(BoundedWebSocketProtocol):
        pass

    Protocol.write_seconds = write_seconds
    return Protocol
