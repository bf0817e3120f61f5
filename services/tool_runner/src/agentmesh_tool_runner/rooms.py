"""Bounds on how much happens at once, fair between those who wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class _Room:
    """Places, and who waits for one: by group, the group whose turn it is first."""

    held: int = 0
    waiting: dict[str, deque[asyncio.Future[None]]] = field(default_factory=dict)


class Rooms:
    """Rooms by key; one that nobody is in or waits for is not kept."""

    def __init__(self) -> None:
        self._rooms: dict[Hashable, _Room] = {}

    @asynccontextmanager
    async def place(self, key: Hashable, group: str, limit: int) -> AsyncIterator[None]:
        """A place in the room of that key, which has `limit` of them; no bound if 0.

        Whoever waits longest within its group is next, and the groups take turns.
        """
        if not limit:
            yield
            return
        room = self._rooms.setdefault(key, _Room())
        if room.held < limit and not room.waiting:
            room.held += 1
        else:
            await _wait(room, group)
        try:
            yield
        finally:
            _leave(room)
            if not room.held and not room.waiting:
                self._rooms.pop(key, None)

    def __len__(self) -> int:
        return len(self._rooms)


async def _wait(room: _Room, group: str) -> None:
    called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    room.waiting.setdefault(group, deque()).append(called)
    try:
        await called
    except asyncio.CancelledError:
        if called.done() and not called.cancelled():
            _leave(room)
        elif group in room.waiting:
            room.waiting[group].remove(called)
            if not room.waiting[group]:
                del room.waiting[group]
        raise


def _leave(room: _Room) -> None:
    """Passes the place on; it stays held by whoever is called."""
    while room.waiting:
        group, queue = next(iter(room.waiting.items()))
        called = queue.popleft()
        del room.waiting[group]
        if queue:
            room.waiting[group] = queue
        if not called.done():
            called.set_result(None)
            return
    room.held -= 1
