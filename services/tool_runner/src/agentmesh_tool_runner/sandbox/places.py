"""Where workspaces are mounted, and whom they belong to."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from .launcher_client import LauncherClient, LauncherLostError
from .model import Limits
from .mounted import Place
from .reach import LocalReach


def first_uid(wanted: int, *, uids: int) -> int | None:
    """The first uid of root's sandboxes; in a container only mapped ones exist.

    None where the service is not root: then all is its own.
    """
    if os.geteuid() != 0:
        return None
    mapped = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    highest = max(
        int(start) + int(count) - 1 for start, count in zip(mapped[::3], mapped[2::3], strict=True)
    )
    return min(wanted, highest - uids - 1)


class Places:
    """Mounts in the launcher's namespace. No two of them have the same uid at a time."""

    def __init__(
        self,
        launcher: Callable[[], Awaitable[LauncherClient]],
        sizes: Limits,
        first_uid: int | None,
    ) -> None:
        self._launcher = launcher
        self._sizes = sizes
        self._first_uid = first_uid
        self._uids: dict[str, int] = {}
        self._numbers = itertools.count(1)

    async def mount(self) -> Place:
        """A new, empty place. Raises what the launcher raises."""
        launcher = await self._launcher()
        name = f"workspace-{next(self._numbers)}"
        uid = self._take_uid(name)
        try:
            root = await launcher.mount(
                name, size=self._sizes.workspace_bytes, files=self._sizes.workspace_files, uid=uid
            )
        except BaseException:
            self._uids.pop(name, None)
            raise
        return Place(name, LocalReach(root), uid)

    async def unmount(self, place: Place, launcher: LauncherClient | None) -> None:
        """Forgets a place. Where the launcher is gone, its mounts are too."""
        if launcher is not None and launcher.alive:
            with contextlib.suppress(OSError, LauncherLostError):
                await launcher.unmount(place.name)
        # By name: the uid of a place that was lost may be another one's by now.
        self._uids.pop(place.name, None)

    def forget_all(self) -> None:
        """The launcher is gone, and all its mounts and sandboxes with it."""
        self._uids.clear()

    def _take_uid(self, name: str) -> int | None:
        if self._first_uid is None:
            return None
        taken = set(self._uids.values())
        uid = next(uid for uid in itertools.count(self._first_uid) if uid not in taken)
        self._uids[name] = uid
        return uid
