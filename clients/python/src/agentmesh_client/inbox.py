"""What a stream has brought and nobody has taken yet, up to a bound."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from agentmesh_client.models import Delta, Event

MOST_ITEMS = 1_000
MOST_BYTES = 4 << 20
"""On the wire; one response more may come on top of either."""


class Inbox:
    """Items in the order in which they came. One task puts them in, one takes them out.

    Once full, it stays so until half is taken: whoever fills it then has something to do.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[Event | Delta, int]] = deque()
        self._bytes = 0
        self._full = False
        self._ended = False
        self._error: BaseException | None = None
        self._filled = asyncio.Event()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether no more items may be read."""
        return self._full

    def put(self, item: Event | Delta) -> None:
        """Adds an item; whoever does so looks at `full` before the next one is read."""
        size = item.raw.ByteSize()
        self._items.append((item, size))
        self._bytes += size
        self._full = self._full or len(self._items) >= MOST_ITEMS or self._bytes >= MOST_BYTES
        self._filled.set()

    def end(self, error: BaseException | None) -> None:
        """Says what follows the last item: this error, or nothing."""
        self._ended, self._error = True, error
        self._filled.set()

    def nudge(self) -> None:
        """Lets whoever waits in `wait_until` look again."""
        self._changed.set()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns when `condition` holds; it is asked after each change."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def take(self) -> AsyncIterator[Event | Delta]:
        """Every item, until the end. Raises the error that is the end."""
        while True:
            while self._items:
                item, size = self._items.popleft()
                self._bytes -= size
                self._note_room()
                yield item
            if self._ended:
                if self._error is not None:
                    raise self._error
                return
            self._filled.clear()
            await self._filled.wait()

    def _note_room(self) -> None:
        if self._full and len(self._items) <= MOST_ITEMS / 2 and self._bytes <= MOST_BYTES / 2:
            self._full = False
            self.nudge()
