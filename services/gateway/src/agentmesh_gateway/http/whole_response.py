"""Responses that are complete when they begin, written at once.

uvicorn writes the head of a response and its body apart, and looks at each header with two
patterns. What is wanted of that for a response of our own is one look at the head as a whole.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from agentmesh_gateway.rest.asgi import Headers

WHOLE_RESPONSE = "agentmesh_whole_response"
"""In the state of a request's scope: its `WholeResponse`."""

_APART = frozenset({b"connection", b"transfer-encoding"})


class WholeResponse:
    """The response of one request, if it is written at once."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle

    def takes(self, named: dict[bytes, bytes]) -> bool:
        """Whether a head with these headers can wait for its body. A stream has no length, and
        its head is wanted before there is any."""
        return b"content-length" in named and _APART.isdisjoint(named)

    async def write(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends all of it. Raises RuntimeError for a header that holds the end of a line, and for
        a body of another length than the head says."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        lines = [STATUS_LINE[status]]
        every = [*cycle.default_headers, *headers]
        without_body = cycle.scope["method"] == "HEAD"
        for name, value in every:
            if name == b"content-length" and int(value) != len(body) and not without_body:
                raise RuntimeError("a body has another length than its head says")
            lines += (name, b": ", value, b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(every) + 1 or head.count(b"\r") != len(every) + 1:
            raise RuntimeError("a header of a response holds the end of a line")
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"".join((head, end, b"" if without_body else body)))
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
