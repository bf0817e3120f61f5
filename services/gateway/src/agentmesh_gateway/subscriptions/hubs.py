"""The hubs of all conversations that somebody watches through this gateway."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass

from .feed import Feed
from .hub import Hub, Wakeable
from .pace import Pace
from .responses import Place
from .store import StoreSubscriptions
from .wanted import Wanted


@dataclass(frozen=True, slots=True)
class Served:
    """A hub and what feeds it."""

    hub: Hub
    feed: Feed


class Hubs:
    """One hub per tenant and conversation, as long as somebody watches."""

    def __init__(self, store: StoreSubscriptions, pace: Pace) -> None:
        self._store = store
        self._pace = pace
        self._ticking: asyncio.Task[None] | None = None
        self._served: dict[tuple[str, str], Served] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._served)

    def find(self, wanted: Wanted, place: Place) -> tuple[Served, Place] | None:
        """The conversation's hub and the place with its position and token, if a subscriber can
        begin there without catching up first."""
        served = self._serving(wanted)
        if served is None or not wanted.filter.passes_all:
            # Only the store knows whether what a filter names exists.
            return None
        hub = served.hub
        position = hub.place_of(place.token) if place.token else None
        if position is None or not hub.covers(position):
            return None
        return served, Place(position, place.token)

    def join(self, wanted: Wanted, place: Place) -> Served | None:
        """The conversation's hub, opened at `place` if there is none; None if it is too far ahead
        already."""
        served = self._serving(wanted)
        if served is None:
            hub = Hub(wanted.tenant, wanted.conversation_id, place)
            served = Served(hub, Feed(hub, self._store, self._pace.patience))
            self._served[wanted.tenant, wanted.conversation_id] = served
            if self._ticking is None:
                self._ticking = asyncio.create_task(
                    self._tick(), name="subscriptions", context=contextvars.Context()
                )
        return served if served.hub.covers(place.position or 0) else None

    def leave(self, served: Served, subscriber: Wakeable) -> None:
        """Drops the hub with its last subscriber."""
        hub = served.hub
        hub.subscribers.discard(subscriber)
        if hub.subscribers:
            return
        key = (hub.tenant, hub.conversation_id)
        if self._served.get(key) is served:
            del self._served[key]
        if not self._served and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        closing = asyncio.create_task(served.feed.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _serving(self, wanted: Wanted) -> Served | None:
        key = (wanted.tenant, wanted.conversation_id)
        served = self._served.get(key)
        if served is not None and served.hub.failure is not None:
            # Its subscribers are told; whoever comes now tries anew.
            del self._served[key]
            return None
        return served

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._pace.tick)
            for served in self._served.values():
                served.hub.tick(loop.time())
