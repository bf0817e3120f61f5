"""Which workspaces are open, and who may close them.

An open workspace is a tmpfs of fixed size, so that no program can write more than its bound; where
the files of a closed one are is the matter of `rest`. Handles open it when they need it and never
hold it open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .model import Session, WorkspaceFullError, WorkspaceInUseError, WorkspaceKey
from .mounted import Mounted, Mounter, Place, Stay
from .rest import ArchiveRest, Rest

logger = logging.getLogger(__name__)

_CHECK_SECONDS: Final = 30.0


def _says_yes(asked: asyncio.Task[bool]) -> bool:
    """True if the task has ended well, with that answer."""
    if not asked.done() or asked.cancelled() or asked.exception() is not None:
        return False
    return asked.result()


@dataclass(frozen=True)
class WorkspaceRules:
    """Bounds of all workspaces."""

    bytes_each: int
    max_open: int
    idle_seconds: float
    lifetime_seconds: float = math.inf
    """Of an open one, however much it is used; nothing that runs is ended for it."""


@dataclass
class _Ahead:
    """Whoever acts in a workspace before it is known to be what counts, and keeps others out."""

    key: WorkspaceKey
    active: bool = True


_acts_ahead: ContextVar[_Ahead | None] = ContextVar("acts_ahead", default=None)


class Workspaces:
    """Opens, closes and saves workspaces."""

    def __init__(self, folder: Path, mounter: Mounter, rules: WorkspaceRules) -> None:
        """Files rest as archives below `folder` unless `rest` is set to something else."""
        self.rest: Rest = ArchiveRest(folder, rules.bytes_each)
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

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    @contextlib.asynccontextmanager
    async def use(self, key: WorkspaceKey) -> AsyncIterator[Mounted]:
        """The workspace, open while the block runs. Raises what mounting and restoring raise."""
        async with self._turn(key):
            mounted = self._open.get(key)
            old = mounted is not None and self._is_old(mounted) and not mounted.users
            if mounted is not None and old and await self._leave(key, mounted):
                mounted = None
            if mounted is None:
                await self._make_room()
                mounted = self._open[key] = await self._mount(key)
            mounted.users += 1
            mounted.unused.clear()
        try:
            yield mounted
        finally:
            mounted.leave()

    def stay(self, key: WorkspaceKey, stay: Stay) -> Mounted | None:
        """Keeps what is open now so, without waiting for a turn, until `stay` is over.

        None, and nothing is kept, if it is not open.
        """
        mounted = self._open.get(key)
        if mounted is not None and not stay.over:
            mounted.users += 1
            stay.callback(mounted.leave)
        return mounted

    def _turn(self, key: WorkspaceKey) -> contextlib.AbstractAsyncContextManager[None]:
        """To open or use it; what acts ahead has its turn already."""
        ahead = _acts_ahead.get()
        if ahead is not None and ahead.active and ahead.key == key:
            return contextlib.nullcontext()
        return self._lock(key)

    @contextlib.asynccontextmanager
    async def ahead(
        self, key: WorkspaceKey, expendable: Callable[[Mounted], bool]
    ) -> AsyncIterator[asyncio.Task[bool] | None]:
        """Lets the block act in the workspace while it is asked whether that is what counts.

        The task has the answer. Unless that is True when the block ends, the workspace is closed
        with whatever the block did there; nobody else comes in before. None where the answer has to
        come first: where something would be lost with what is open, which `expendable` says of
        all but the files.
        """
        mounted = self._open.get(key)
        known = expendable(mounted) if mounted is not None else self.rest.may_be_new(key)
        if not known or self._lock(key).locked():
            yield None
            return
        async with self._lock(key):
            if mounted is None:
                await self._make_room()
                mounted = self._open[key] = Mounted(await self._mounter.mount())
            elif not await self._may_be_lost(key, mounted):
                mounted = None
            if mounted is not None:
                turn = _Ahead(key)
                _acts_ahead.set(turn)
                asked = asyncio.create_task(self.rest.still_counts(key, mounted))
                try:
                    yield asked
                finally:
                    turn.active = False
                    _acts_ahead.set(None)
                    if not _says_yes(asked):
                        asked.cancel()
                        await asyncio.shield(self._drop(key, mounted))
        if mounted is None:
            yield None

    async def _may_be_lost(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        """True if nobody uses it, and its files are all kept."""
        if mounted.users or mounted.dropped or mounted.tainted or mounted.keeping.locked():
            return False
        return not self._is_old(mounted) and await self.rest.is_settled(key, mounted)

    def _lock(self, key: WorkspaceKey) -> asyncio.Lock:
        """Held while a workspace is opened or closed; lives as long as somebody has it."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    async def _mount(self, key: WorkspaceKey) -> Mounted:
        mounted = Mounted(await self._mounter.mount())
        try:
            await self.rest.fill(key, mounted)
        except BaseException:
            mounted.files.close()
            await self._mounter.unmount(mounted.place)
            raise
        return mounted

    async def refresh(self, key: WorkspaceKey) -> None:
        """Opens the workspace with what was kept of it elsewhere, too."""
        before = self._open.get(key)
        async with self.use(key) as mounted:
            # One that was filled just now is up to date.
            if mounted is before:
                await self.rest.refresh(key, mounted)

    async def save(self, key: WorkspaceKey) -> None:
        """Raises WorkspaceFullError after going back to the files of the last save."""
        async with self.use(key) as mounted, self.within_bounds(key, mounted):
            await self.rest.keep(key, mounted)

    @contextlib.asynccontextmanager
    async def within_bounds(self, key: WorkspaceKey, mounted: Mounted) -> AsyncIterator[None]:
        """What cannot be kept is not there any more once its WorkspaceFullError is told."""
        try:
            yield
        except WorkspaceFullError:
            async with mounted.lock:
                await self._drop(key, mounted)
            raise

    def taint(self, key: WorkspaceKey) -> None:
        """Work in the workspace was given up in its middle."""
        if mounted := self._open.get(key):
            mounted.tainted = True

    async def clean(self, key: WorkspaceKey, patience: float) -> None:
        """Closes a tainted workspace without keeping anything; the next use fills it anew.

        If somebody still uses it after `patience` seconds, it stays as it is for good: what others
        do there must neither be ended nor wait again.
        """
        mounted = self._open.get(key)
        if mounted is not None and mounted.tainted:
            await self.unused(key, patience)
            await self.release(key)
            mounted.tainted = False

    async def release(self, key: WorkspaceKey) -> None:
        """Closes the workspace unless somebody uses it."""
        await self._close(key)

    async def close_idle(self) -> None:
        """Closes what nobody used for a while, or was open for long."""
        oldest = time.monotonic() - self._rules.idle_seconds
        for key, mounted in list(self._open.items()):
            if mounted.used_at < oldest or self._is_old(mounted):
                await self._close(key)
            elif self.rest.owes(key) and not mounted.tainted:
                async with self.use(key) as used:
                    await self.rest.settle(key, used)

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
            # Of what was ended just now, nobody else may have saved the files yet.
            async with self.within_bounds(key, mounted):
                await self.rest.keep(key, mounted)
            await self._leave(key, mounted)
            return True

    async def _make_room(self) -> None:
        idle = sorted(
            (mounted.used_at, key.conversation, key)
            for key, mounted in self._open.items()
            if not mounted.users
        )
        for _, _, key in idle:
            if len(self._open) < self._rules.max_open:
                return
            await self._close(key)

    async def _close(self, key: WorkspaceKey) -> None:
        async with self._lock(key):
            mounted = self._open.get(key)
            if mounted is not None and not mounted.users:
                await self._leave(key, mounted)

    async def _leave(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        """Saves and closes what nobody uses; the caller holds the lock. False if it stays open."""
        if not mounted.tainted and not await self.rest.leave(key, mounted):
            return False
        await self._drop(key, mounted)
        return True

    async def _drop(self, key: WorkspaceKey, mounted: Mounted) -> None:
        if mounted.dropped:
            # It was lost, and another may be open by now.
            return
        self._open.pop(key, None)
        mounted.dropped = True
        mounted.close_when_unused()
        await self._mounter.unmount(mounted.place)

    async def delete(self, key: WorkspaceKey) -> None:
        if mounted := self._open.get(key):
            await self._drop(key, mounted)
        await self.rest.forget(key)

    def forget(self, place: Place) -> None:
        """That one is lost; the next use fills a new one."""
        for key, mounted in list(self._open.items()):
            if mounted.place == place:
                mounted.dropped = True
                mounted.close_when_unused()
                del self._open[key]

    def forget_all(self) -> None:
        """The mounts went with the process that held them; the next use fills new ones."""
        for mounted in self._open.values():
            mounted.dropped = True
            mounted.close_when_unused()
        self._open.clear()

    async def close_all(self, patience: float) -> None:
        """Saves and closes all; waits for so many seconds for whoever still saves files of one."""
        await asyncio.gather(*(self.unused(key, patience) for key in self._open))
        for key, mounted in list(self._open.items()):
            await self._close(key)
            if not mounted.users and not mounted.dropped:
                logger.warning("what was last done to the files of %s is lost", key)
                await self._drop(key, mounted)
