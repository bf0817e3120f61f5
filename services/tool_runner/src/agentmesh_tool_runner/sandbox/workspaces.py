"""Which workspaces are open, where their files rest when they are not, and who may close them.

An open workspace is a tmpfs of fixed size, so that no program can write more than its bound; a
closed one is an archive below the data folder. Handles open it when they need it and never hold it
open.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from . import snapshot
from .backend import Session, WorkspaceFullError, WorkspaceInUseError, WorkspaceKey
from .reach import Reach

_LONGEST_NAME: Final = 120
_CHECK_SECONDS: Final = 30.0


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
    """An open workspace and its place; `saved` is what was in it at the last save."""

    place: Place
    saved: list[snapshot.Entry] | None
    users: int = 0
    dropped: bool = False
    opened_at: float = field(default_factory=time.monotonic)
    used_at: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def files(self) -> Reach:
        return self.place.files

    @property
    def uid(self) -> int | None:
        return self.place.uid

    def close_when_unused(self) -> None:
        """What somebody still works with must not be closed."""
        if self.dropped and not self.users:
            self.files.close()


class Mounter(Protocol):
    """Gives places; the backend's part. No two that are mounted have the same uid."""

    async def mount(self) -> Place: ...

    async def unmount(self, place: Place) -> None: ...


@dataclass(frozen=True)
class WorkspaceRules:
    """Bounds of all workspaces."""

    bytes_each: int
    max_open: int
    idle_seconds: float
    lifetime_seconds: float = math.inf
    """Of an open one, however much it is used; nothing that runs is ended for it."""


class Workspaces:
    """Opens, closes and saves workspaces."""

    def __init__(self, folder: Path, mounter: Mounter, rules: WorkspaceRules) -> None:
        self._folder = folder
        self._mounter = mounter
        self._rules = rules
        self._open: dict[WorkspaceKey, Mounted] = {}
        self._locks: weakref.WeakValueDictionary[WorkspaceKey, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )

    @property
    def bytes_each(self) -> int:
        """Size of a workspace."""
        return self._rules.bytes_each

    def archive(self, key: WorkspaceKey) -> Path:
        return self._folder / _file_name(key.tenant) / f"{_file_name(key.conversation)}.tar"

    @contextlib.asynccontextmanager
    async def use(self, key: WorkspaceKey) -> AsyncIterator[Mounted]:
        """The workspace, open while the block runs. Raises what mounting and restoring raise."""
        async with self._lock(key):
            mounted = self._open.get(key)
            if mounted is not None and self._is_old(mounted) and not mounted.users:
                await self._leave(key, mounted)
                mounted = None
            if mounted is None:
                await self._make_room()
                mounted = self._open[key] = await self._mount(key)
            mounted.users += 1
            mounted.unused.clear()
        try:
            yield mounted
        finally:
            mounted.users -= 1
            mounted.used_at = time.monotonic()
            if not mounted.users:
                mounted.unused.set()
            mounted.close_when_unused()

    def _lock(self, key: WorkspaceKey) -> asyncio.Lock:
        """Held while a workspace is opened or closed; lives as long as somebody has it."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    async def _mount(self, key: WorkspaceKey) -> Mounted:
        place = await self._mounter.mount()
        try:
            saved = await place.files.restore(self.archive(key), uid=place.uid)
        except BaseException:
            place.files.close()
            await self._mounter.unmount(place)
            raise
        return Mounted(place, saved)

    async def save(self, key: WorkspaceKey) -> None:
        """Raises WorkspaceFullError after going back to the files of the last save."""
        async with self.use(key) as mounted, mounted.lock:
            try:
                await self._save(key, mounted)
            except WorkspaceFullError:
                await self._drop(key, mounted)
                raise

    async def _save(self, key: WorkspaceKey, mounted: Mounted) -> None:
        mounted.saved = await mounted.files.save(
            self.archive(key), max_bytes=self._rules.bytes_each, before=mounted.saved
        )

    async def close_idle(self) -> None:
        """Closes what nobody used for a while, or was open for long."""
        oldest = time.monotonic() - self._rules.idle_seconds
        for key, mounted in list(self._open.items()):
            if mounted.used_at < oldest or self._is_old(mounted):
                await self._close(key)

    @property
    def check_seconds(self) -> float:
        """How often to close what is idle."""
        return min(_CHECK_SECONDS, self._rules.idle_seconds, self._rules.lifetime_seconds)

    def _is_old(self, mounted: Mounted) -> bool:
        return mounted.opened_at + self._rules.lifetime_seconds < time.monotonic()

    def sessions(self, tenant: str) -> list[Session]:
        """The open workspaces of a tenant."""
        now, time_now = time.monotonic(), time.time()
        return [
            Session(
                key=key,
                opened_at=time_now - now + mounted.opened_at,
                used_at=time_now if mounted.users else time_now - now + mounted.used_at,
                users=mounted.users,
                idle_seconds=self._rules.idle_seconds,
                lifetime_seconds=self._rules.lifetime_seconds,
            )
            for key, mounted in self._open.items()
            if key.tenant == tenant
        ]

    async def unused(self, key: WorkspaceKey, patience: float) -> None:
        """Waits until nobody uses the workspace, or for `patience` seconds."""
        mounted = self._open.get(key)
        if mounted is not None and mounted.users:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await mounted.unused.wait()

    async def close_session(self, key: WorkspaceKey) -> bool:
        """Saves and closes the workspace; False if it is not open.

        Raises WorkspaceInUseError, WorkspaceFullError.
        """
        async with self._lock(key):
            mounted = self._open.get(key)
            if mounted is None:
                return False
            if mounted.users:
                raise WorkspaceInUseError(f"{mounted.users} operations or programs use it")
            await self._leave(key, mounted)
            return True

    async def _make_room(self) -> None:
        idle = sorted(
            (mounted.used_at, key.conversation, key)
            for key, mounted in self._open.items()
            if not mounted.users
        )
        for _, _, key in idle[: max(0, len(self._open) + 1 - self._rules.max_open)]:
            await self._close(key)

    async def _close(self, key: WorkspaceKey) -> None:
        async with self._lock(key):
            mounted = self._open.get(key)
            if mounted is not None and not mounted.users:
                await self._leave(key, mounted)

    async def _leave(self, key: WorkspaceKey, mounted: Mounted) -> None:
        """Saves and closes what nobody uses; the caller holds the lock."""
        # What cannot be saved goes back to what was: a program filled it after the last save.
        with contextlib.suppress(WorkspaceFullError):
            await self._save(key, mounted)
        await self._drop(key, mounted)

    async def _drop(self, key: WorkspaceKey, mounted: Mounted) -> None:
        self._open.pop(key, None)
        mounted.dropped = True
        mounted.close_when_unused()
        await self._mounter.unmount(mounted.place)

    async def delete(self, key: WorkspaceKey) -> None:
        if mounted := self._open.get(key):
            await self._drop(key, mounted)
        await asyncio.to_thread(self.archive(key).unlink, missing_ok=True)

    def forget(self, place: Place) -> None:
        """That one is lost; the next use restores its archive."""
        for key, mounted in list(self._open.items()):
            if mounted.place == place:
                mounted.dropped = True
                mounted.close_when_unused()
                del self._open[key]

    def forget_all(self) -> None:
        """The mounts went with the process that held them; the next use restores archives."""
        for mounted in self._open.values():
            mounted.dropped = True
            mounted.close_when_unused()
        self._open.clear()

    async def close_all(self) -> None:
        for key in list(self._open):
            await self._close(key)


def _file_name(name: str) -> str:
    """A file name for any text, the same each time, another for each text."""
    quoted = "~" + quote(name, safe="")
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    return quoted[:40] + hashlib.sha256(name.encode()).hexdigest()
