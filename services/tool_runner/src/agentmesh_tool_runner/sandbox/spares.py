"""Control groups with a process each that has joined them, made ahead of need.

Joining a group takes a grace period of the kernel, longer than all else that a start takes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from . import cgroups
from .launcher_client import LauncherClient, LauncherLostError
from .model import Limits

_SPARES: Final = 2


def group_limits(limits: Limits) -> cgroups.GroupLimits:
    """The part of an execution's limits that its control group holds."""
    return cgroups.GroupLimits(limits.memory_bytes, limits.processes, limits.cpus)


class Spares:
    """Groups of one launcher, and the processes in them that it will turn into sandboxes."""

    def __init__(
        self,
        groups: cgroups.Parent,
        launcher: Callable[[], Awaitable[LauncherClient]],
        new_name: Callable[[], str],
    ) -> None:
        self._groups = groups
        self._launcher = launcher
        self._new_name = new_name
        self._filling = asyncio.Lock()
        self._ready: deque[tuple[str, cgroups.Group]] = deque()

    async def take(self, limits: Limits) -> tuple[str, cgroups.Group]:
        """A group with these limits, and the name of a sandbox to start in it. Raises OSError."""
        if self._ready:
            name, group = self._ready.popleft()
            group.limit(group_limits(limits))
            return name, group
        name = self._new_name()
        return name, await asyncio.to_thread(self._groups.group, name, group_limits(limits))

    async def fill(self) -> None:
        """Makes what is missing; stops at the first thing that fails."""
        async with self._filling:
            while len(self._ready) < _SPARES:
                name = self._new_name()
                try:
                    launcher = await self._launcher()
                    limits = group_limits(Limits())
                    group = await asyncio.to_thread(self._groups.group, name, limits)
                except (OSError, LauncherLostError):
                    return
                try:
                    await launcher.keep_spare(name, group.member_files)
                except BaseException as error:
                    await asyncio.to_thread(_remove, group)
                    if isinstance(error, (OSError, LauncherLostError)):
                        return
                    raise
                self._ready.append((name, group))

    async def drop(self, launcher: LauncherClient) -> None:
        """Ends them all."""
        while self._ready:
            name, group = self._ready.popleft()
            with contextlib.suppress(OSError, LauncherLostError):
                await launcher.drop_spare(name)
            await asyncio.to_thread(_remove, group)


def _remove(group: cgroups.Group) -> None:
    group.kill()
    group.remove()
