"""Notices on their way out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from .interface import DeltasMade, Notice
from .wire import weight

MAX_NOTICES = 20_000
MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A notice for a channel; `number` is its place in the order."""

    number: int
    channel: str
    notice: Notice
    weight: int


class Outbox:
    """A bounded queue. What does not fit costs the oldest previews of text first, then the oldest
    other notices: all of them are hints."""

    def __init__(self, max_notices: int = MAX_NOTICES, max_bytes: int = MAX_BYTES) -> None:
        self.dropped = 0
        self._max_notices = max_notices
        self._max_bytes = max_bytes
        self._previews: deque[Outgoing] = deque()
        self._others: deque[Outgoing] = deque()
        self._bytes = 0
        self._next_number = 0
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._previews) + len(self._others)

    def put(self, channel: str, notice: Notice) -> None:
        """Puts it at the end."""
        self._next_number += 1
        entry = Outgoing(self._next_number, channel, notice, weight(notice))
        self._lane(entry).append(entry)
        self._bytes += entry.weight
        self._shrink()
        self._filled.set()
        self._empty.clear()

    def put_back(self, entries: Sequence[Outgoing]) -> None:
        """Puts what was taken last at the beginning again."""
        for entry in reversed(entries):
            self._lane(entry).appendleft(entry)
            self._bytes += entry.weight
        self._shrink()
        if len(self):
            self._filled.set()

    def sent(self) -> None:
        """What was taken has arrived."""
        if not len(self):
            self._empty.set()

    async def emptied(self) -> None:
        """Waits until all of it has arrived."""
        await self._empty.wait()

    async def filled(self) -> None:
        """Waits until there is something."""
        await self._filled.wait()

    def take(self, max_notices: int, max_bytes: int) -> list[Outgoing]:
        """The oldest ones in their order; at least one if there is one."""
        taken: list[Outgoing] = []
        size = 0
        while len(self) and len(taken) < max_notices and size < max_bytes:
            entry = self._oldest_lane().popleft()
            size += entry.weight
            taken.append(entry)
        self._bytes -= size
        if not len(self):
            self._filled.clear()
        return taken

    def _lane(self, entry: Outgoing) -> deque[Outgoing]:
        return self._previews if isinstance(entry.notice, DeltasMade) else self._others

    def _oldest_lane(self) -> deque[Outgoing]:
        if self._previews and self._others:
            previews_first = self._previews[0].number < self._others[0].number
            return self._previews if previews_first else self._others
        return self._previews or self._others

    def _shrink(self) -> None:
        while len(self) > self._max_notices or (self._bytes > self._max_bytes and len(self) > 1):
            entry = (self._previews or self._others).popleft()
            self._bytes -= entry.weight
            self.dropped += 1
