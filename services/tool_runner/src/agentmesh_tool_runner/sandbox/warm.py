"""Sandboxes that are there before they are needed.

A few places with a resident each are made ahead of need; a session that opens takes one, for good,
and another is made in its stead. A workspace that came without one gets a resident when it is used
a second time, and a new one when its resident is gone or worn. None is ever handed from one
workspace to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine

from meshkit.tasks import ended

from .launcher_client import LauncherLostError
from .mounted import Place
from .resident_client import Resident, ResidentLostError

logger = logging.getLogger(__name__)


class WarmSandboxes:
    """The residents of all places, by the names of these."""

    def __init__(
        self,
        mount: Callable[[], Awaitable[Place]],
        unmount: Callable[[Place], Awaitable[None]],
        start: Callable[[Place], Awaitable[Resident]],
        *,
        count: int,
    ) -> None:
        self._mount = mount
        self._unmount = unmount
        self._start = start
        self._count = count
        self._ready: deque[Place] = deque()
        self._idle: dict[str, Resident] = {}
        self._claimed: set[str] = set()
        self._on_their_way: dict[str, asyncio.Event] = {}
        self._used: set[str] = set()
        self._refilling = asyncio.Lock()
        self._starting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def ready(self) -> int:
        """Places that wait to be taken."""
        return len(self._ready)

    def take(self) -> Place | None:
        """A place that nobody has used, with a resident; None where there is none."""
        while self._ready:
            place = self._ready.popleft()
            self._in_background(self.refill())
            if not self._idle[place.name].lost:
                self._used.add(place.name)
                return place
            self._in_background(self._discard(place))
        return None

    async def refill(self) -> None:
        """Makes what is missing; gives up at the first that fails, until the next is taken."""
        async with self._refilling:
            while len(self._ready) < self._count and not self._closed:
                place: Place | None = None
                try:
                    place = await self._mount()
                    self._idle[place.name] = await self._start(place)
                except (OSError, LauncherLostError, ResidentLostError) as error:
                    logger.warning("no warm sandbox could be made: %s", error)
                    if place is not None:
                        await self._discard(place)
                    return
                self._ready.append(place)

    def claim(self, place: Place) -> Resident | None:
        """The place's resident, for one program; None where it has none that is free."""
        if place.name in self._claimed:
            return None
        resident = self._idle.pop(place.name, None)
        if resident is not None and not resident.lost:
            self._claimed.add(place.name)
            return resident
        if resident is not None:
            self._in_background(self._remove(resident))
        if resident is not None or place.name in self._used:
            self._in_background(self._provide(place))
        self._used.add(place.name)
        return None

    def take_resident(self, place: Place) -> Resident | None:
        """The place's resident, for good; None where it has none that is free."""
        resident = self.claim(place)
        self._claimed.discard(place.name)
        if resident is not None:
            self._in_background(self._provide(place))
        return resident

    async def give_back(self, place: Place, resident: Resident) -> None:
        """Takes back what was claimed, once it is clear; a worn one is replaced."""
        back = self._on_their_way[place.name] = asyncio.Event()
        try:
            await resident.until_clear()
        finally:
            self._claimed.discard(place.name)
            del self._on_their_way[place.name]
            back.set()
        free = place.name in self._used and place.name not in self._idle
        if free and resident.reusable:
            self._idle[place.name] = resident
            return
        if free:
            self._in_background(self._provide(place))
        await self._remove(resident)

    async def given_back(self, place: Place) -> None:
        """Waits for a resident that will be free in a moment, as its program has ended."""
        while (back := self._on_their_way.get(place.name)) is not None:
            await back.wait()

    async def _provide(self, place: Place) -> None:
        """Starts a resident for a place that has none."""
        name = place.name
        if self._closed or name in self._idle or name in self._starting:
            return
        self._starting.add(name)
        try:
            resident = await self._start(place)
        except (OSError, LauncherLostError, ResidentLostError) as error:
            logger.warning("no resident could be started: %s", error)
            return
        finally:
            self._starting.discard(name)
        if name in self._used and name not in self._idle and not self._closed:
            self._idle[name] = resident
        else:
            await self._remove(resident)

    async def drop(self, place: Place) -> None:
        """Ends the resident of a place that is given up."""
        self._used.discard(place.name)
        resident = self._idle.pop(place.name, None)
        if resident is not None:
            await self._remove(resident)

    async def _discard(self, place: Place) -> None:
        await self.drop(place)
        place.files.close()
        await self._unmount(place)

    async def _remove(self, resident: Resident) -> None:
        with contextlib.suppress(OSError):
            await resident.remove()

    async def forget_all(self) -> None:
        """The launcher is gone, and every sandbox with it."""
        self._ready.clear()
        self._used.clear()
        lost, self._idle = list(self._idle.values()), {}
        for resident in lost:
            await self._remove(resident)

    async def close(self) -> None:
        """Ends all residents that nobody has claimed."""
        self._closed = True
        await ended(*self._tasks)
        for place in list(self._ready):
            await self._discard(place)
        self._ready.clear()
        for resident in list(self._idle.values()):
            await self._remove(resident)
        self._idle.clear()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
