"""A WebSocket that cannot be held, or fed, for nothing.

uvicorn takes any number of pings and of pieces of a message, reads the next message before anybody
asks for it, and waits for ever for a client that takes nothing or does not end what it began: this
does not.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from meshkit.errors import MeshError
from websockets.frames import Frame
from websockets.http11 import Request

from agentmesh_gateway.http.handshakes import WebSocketProtocol
from agentmesh_gateway.http.limits import HttpLimits
from agentmesh_gateway.http.message_pace import MessagePace
from agentmesh_gateway.limits.held_frames import HeldFrames

INCOMING = "agentmesh.incoming"
"""In the state of a connection's scope; its `count_with` says among whose bytes it counts."""
REFUSED = "agentmesh.refused"
"""Type of a message to the application: nothing more is taken, because of its `error`."""

_CONTROL_FRAMES_A_SECOND = 10
_CONTROL_FRAMES_AT_ONCE = 100
_MOST_FRAGMENTS = 4096
_PARSED_BYTES = 4096
"""A small frame becomes objects of a hundred times its size: no more of them at a time."""
_NO_TEXT = 1007
_POLICY_VIOLATION = 1008
_GOODBYE_SECONDS = 2.0
"""For who was refused and sends on, which is thrown away: the answer to a close is not seen."""


class BoundedWebSocketProtocol(WebSocketProtocol):
    """One connection. Nothing is read but the message that the application waits for, which gets
    text as the bytes that came, as `utf8`: a `str` may take four times the room."""

    limits: ClassVar[HttpLimits]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._came = b""
        self._parsed = 0
        self._pieces = 0  # bytes of the message under way in frames that are complete
        self._queued = 0
        self._refused = False
        self._held: HeldFrames | None = None
        self._control_full_at = 0.0
        self._stalled: asyncio.TimerHandle | None = None
        self._last_chance: asyncio.TimerHandle | None = None
        self._pace = MessagePace(
            self.limits.body_bytes_per_second,
            self.limits.body_seconds,
            self._under_way,
            self._message_is_slow,
        )

    def count_with(self, held: HeldFrames) -> None:
        """Keeps account there of what it holds."""
        self._held = held

    # --- what comes --------------------------------------------------------------------------

    def handle_connect(self, event: Request) -> None:
        """Reads nothing more until it is known who is there."""
        super().handle_connect(event)
        if not self.handshake_complete:
            self.scope["state"][INCOMING] = self
            self.read_paused = True
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Keeps what comes until it is asked for."""
        if self._refused:
            return
        self._came = self._came[self._parsed :] + data
        self._parsed = 0
        self._parse()
        self._count()

    async def receive(self) -> Any:
        """The next message; reads on only now."""
        if self.read_paused and self.queue.empty():
            self._read_on()
            self._count()
        message: Any = await self.queue.get()
        if message["type"] == "websocket.receive":
            self._queued -= len(message.get("utf8", b""))
            self._count()
        return message

    def handle_ping(self) -> None:
        """Answers it."""
        if self._takes_control_frame():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Takes it, asked for or not."""
        if self._takes_control_frame():
            super().handle_pong(event)

    def handle_text(self, event: Frame) -> None:
        """A message, or the first piece of one."""
        self._pieces = len(event.data)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """A message that nobody reads, or the first piece of one."""
        self._pieces = len(event.data)
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        """A further piece of a message; pieces may be empty, so that they have a number."""
        if len(self.frames) >= _MOST_FRAGMENTS:
            self._refuse(f"a message in more than {_MOST_FRAGMENTS} pieces")
        else:
            self._pieces += len(event.data)
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """A message is complete."""
        self._pace.rest()
        self._pieces = 0
        if self.curr_msg_data_type != "text":
            self.frames = [b""]
            super().send_receive_event_to_app()
            return
        text = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if not _is_text(text):
            self.conn.send_close(_NO_TEXT)
            self.handle_parser_exception()
            return
        self._tell({"type": "websocket.receive", "utf8": text})
        self._queued += len(text)
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def keepalive_timeout(self) -> None:
        """The client gave no sign of life. It cannot while nothing is read, nor within a frame,
        whose pace is looked at."""
        busy = self.read_paused or (self._pace.bounded and self._under_way())
        if busy and self.ping_timeout is not None:
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
        if self.read_paused or not (self.frames or self._under_way()):
            self._pace.rest()
        else:
            self._pace.go_on()

    def _read_on(self) -> None:
        self.read_paused = False
        self._parse()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _under_way(self) -> int:
        return self._pieces + len(self.conn.reader.buffer)

    def _message_is_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse("a message came too slowly")

    def _count(self) -> None:
        if self._held is None:
            return
        try:
            self._held.arriving(len(self._came) - self._parsed + self._under_way() + self._queued)
        except MeshError as error:
            self._take_no_more(error)

    def _take_no_more(self, error: MeshError) -> None:
        """Lets go of what came, and throws away what still comes."""
        self._refused = True
        self._forget_what_came()
        self._count()
        if self.close_sent:
            self.transport.abort()
            return
        self._tell({"type": REFUSED, "error": error})
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def _tell(self, message: Any) -> None:
        self.queue.put_nowait(message)

    def _forget_what_came(self) -> None:
        self._pace.rest()
        self._came, self._parsed = b"", 0
        self.frames, self._pieces = [], 0
        self.conn.reader.discard()

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
        if self.limits.write_seconds and self._stalled is None:
            self._stalled = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._forget_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets what the connection held."""
        self._forget_stall()
        if self._last_chance is not None:
            self._last_chance.cancel()
        self._forget_what_came()
        if self._held is not None:
            self._held.arriving(0)
        super().connection_lost(exc)

    def _forget_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _abort_later(self) -> None:
        """A transport that is closed waits until the client has taken everything."""
        if self._last_chance is None:
            seconds = _GOODBYE_SECONDS if self._refused else self.close_timeout
            self._last_chance = self.loop.call_later(seconds, self.transport.abort)


def bounded_websockets(limits: HttpLimits) -> type[BoundedWebSocketProtocol]:
    """A protocol for one server."""

    class Protocol(BoundedWebSocketProtocol):
        pass

    Protocol.limits = limits
    return Protocol


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
