"""Frames of a WebSocket that were read before they are wanted, bounded by their bytes."""

from __future__ import annotations

import asyncio
import sys
from collections import deque

from agentmesh_gateway.limits.held_frames import HeldFrames

_MOST_BYTES = 256 * 1024


class FramesAhead:
    """Frames that wait, and the one that is being answered, which counts until the next is taken.

    So a connection holds one frame of any size that it may have, or several small ones. `account`
    keeps count of them beside those of others.
    """

    def __init__(self, account: HeldFrames) -> None:
        self._account = account
        self._waiting: deque[bytes] = deque()
        self._answered = 0
        self._held = 0
        self._changed = asyncio.Event()

    async def room(self) -> None:
        """Waits until another frame may be read."""
        while self._held >= _MOST_BYTES:
            await self._change()

    def put(self, frame: bytes) -> None:
        """Keeps a frame that was read. Raises MeshError if there is no room for it."""
        self._account.waiting(self._held + sys.getsizeof(frame))
        self._waiting.append(frame)
        self._held += sys.getsizeof(frame)
        self._changed.set()

    async def take(self) -> bytes:
        """The next frame; the one before was answered."""
        self._held -= self._answered
        self._answered = 0
        self._account.waiting(self._held)
        self._changed.set()
        while not self._waiting:
            await self._change()
        frame = self._waiting.popleft()
        self._answered = sys.getsizeof(frame)
        return frame

    def drop(self) -> None:
        """Nothing is wanted of them any more."""
        self._waiting.clear()
        self._held = self._answered = 0
        self._account.waiting(0)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
