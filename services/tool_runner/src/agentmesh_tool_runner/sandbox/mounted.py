"""A workspace that is open, and the place that a backend gave it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Protocol

from . import snapshot
from .reach import Reach


@dataclass(frozen=True)
class Place:
    """An empty, size-bounded directory. `files` reaches what is in it; `uid` owns it where the
    service says so.
    """

    name: str
    files: Reach
    uid: int | None


@dataclass
class Mounted:
    """An open workspace and its place; `saved` is what was in it when an archive was made last.

    `tainted` says that something in it came of work that does not count. `notes` belong to what
    keeps the files, which holds `keeping` while it does.
    """

    place: Place
    saved: list[snapshot.Entry] | None = None
    users: int = 0
    dropped: bool = False
    tainted: bool = False
    opened_at: float = field(default_factory=time.monotonic)
    used_at: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    keeping: asyncio.Lock = field(default_factory=asyncio.Lock)
    notes: object = None

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def files(self) -> Reach:
        return self.place.files

    @property
    def uid(self) -> int | None:
        return self.place.uid

    def leave(self) -> None:
        """One user less."""
        self.users -= 1
        self.used_at = time.monotonic()
        if not self.users:
            self.unused.set()
        self.close_when_unused()

    def close_when_unused(self) -> None:
        """What somebody still works with must not be closed."""
        if self.dropped and not self.users:
            self.files.close()


class Stay(contextlib.ExitStack):
    """Keeps workspaces open beyond the end of what runs there, until it is closed."""

    over = False

    def close(self) -> None:
        self.over = True
        super().close()


class Mounter(Protocol):
    """Gives places; the backend's part. No two that are mounted have the same uid."""

    async def mount(self) -> Place: ...

    async def unmount(self, place: Place) -> None: ...
