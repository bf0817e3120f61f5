"""Frames of a WebSocket that were read before they are wanted, bounded by their bytes."""

from __future__ import annotations

import asyncio
import sys
from collections import deque

_MOST_BYTES = 256 * 1024


class FramesAhead:
    """Frames that wait, and the one that is being answered, which counts until the next is taken.

    So a connection holds one frame of any size that it may have, or several small ones.
    """

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._answered = 0
        self._held = 0
        self._changed = asyncio.Event()

    async def room(self) -> None:
        """Waits until another frame may be read."""
        while self._held >= _MOST_BYTES:
            await self._change()

    def put(self, frame: str) -> None:
        """Keeps a frame that was read."""
        self._waiting.append(frame)
        self._held += sys.getsizeof(frame)
        self._changed.set()

    async def take(self) -> str:
        """The next frame; the one before was answered."""
        self._held -= self._answered
        self._answered = 0
        self._changed.set()
        while not self._waiting:
            await self._change()
        frame = self._waiting.popleft()
        self._answered = sys.getsizeof(frame)
        return frame

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
