"""Frames of a WebSocket, which are held in memory before there is a call.

They count among the bytes of HTTP bodies: of a tenant, of an address and of the process. So nobody
fills a replica by frames that they begin on many connections and never end.
"""

from __future__ import annotations

from agentmesh_gateway.limits.bodies import Bodies

_FREE_BYTES = 16 * 1024
"""What a connection may hold for nothing: who chats in small frames is never refused for others."""


class HeldFrames:
    """What one connection holds."""

    def __init__(self, bodies: Bodies, holders: tuple[str, ...]) -> None:
        self._bodies = bodies
        self._holders = holders
        self._arriving = 0
        self._waiting = 0
        self._counted = 0

    def arriving(self, size: int) -> None:
        """So many bytes have come and were not taken yet. Raises MeshError if that is too much, and
        then counts as many as before."""
        self._count(size, self._waiting)
        self._arriving = size

    def waiting(self, size: int) -> None:
        """So many bytes are of frames that were taken and not answered yet. Raises MeshError, as
        `arriving` does."""
        self._count(self._arriving, size)
        self._waiting = size

    def _count(self, arriving: int, waiting: int) -> None:
        more = max(0, arriving + waiting - _FREE_BYTES) - self._counted
        if more > 0:
            self._bodies.hold(self._holders, more, vital=False)
        elif more < 0:
            self._bodies.release(self._holders, -more)
        self._counted += more
