"""Where the files of workspaces are while no workspace of theirs is open."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from .model import WorkspaceFullError, WorkspaceKey

if TYPE_CHECKING:
    from .mounted import Mounted

_LONGEST_NAME: Final = 120


class Rest(Protocol):
    """Keeps files. All but `forget` are called with the workspace open."""

    async def fill(self, key: WorkspaceKey, mounted: Mounted) -> None:
        """Lays what is kept into a place that is empty. Raises WorkspaceFullError if there is no
        room for it."""
        ...

    async def refresh(self, key: WorkspaceKey, mounted: Mounted) -> None:
        """Brings in what was kept elsewhere since then."""
        ...

    def may_be_new(self, key: WorkspaceKey) -> bool:
        """True if it is worth to act in an empty workspace before `still_counts` has answered."""
        return False

    async def is_settled(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        """True if it is worth to act before `still_counts` has answered, and nothing would be lost
        with the open files: all are kept, and were the newest when that was last known."""
        return False

    async def still_counts(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        """Whether what is open, or nothing if it was not filled, is what counts: `refresh` would
        bring in nothing."""
        return True

    async def keep(self, key: WorkspaceKey, mounted: Mounted) -> None:
        """Keeps the present files. Raises WorkspaceFullError if they exceed the bound."""
        ...

    def owes(self, key: WorkspaceKey) -> bool:
        """True if something could not be kept when it was to be."""
        return False

    async def settle(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        """Keeps what it owes; False if that still fails."""
        return True

    async def leave(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        """The workspace is about to be closed; False if it had better stay open for a while."""
        ...

    async def forget(self, key: WorkspaceKey) -> None:
        """Nothing of it needs to be kept any more."""
        ...


class ArchiveRest(Rest):
    """An archive below a folder for each workspace: what a backend has that stands by itself."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def archive(self, key: WorkspaceKey) -> Path:
        """Where its files are."""
        return self._folder / _file_name(key.tenant) / f"{_file_name(key.conversation)}.tar"

    async def fill(self, key: WorkspaceKey, mounted: Mounted) -> None:
        mounted.saved = await mounted.files.restore(self.archive(key), uid=mounted.uid)

    async def refresh(self, key: WorkspaceKey, mounted: Mounted) -> None:
        """Nobody else keeps files here."""

    async def keep(self, key: WorkspaceKey, mounted: Mounted) -> None:
        async with mounted.lock:
            mounted.saved = await mounted.files.save(
                self.archive(key), max_bytes=self._max_bytes, before=mounted.saved
            )

    async def leave(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        # What cannot be saved goes back to what was: a program filled it after the last save.
        with contextlib.suppress(WorkspaceFullError):
            await self.keep(key, mounted)
        return True

    async def forget(self, key: WorkspaceKey) -> None:
        await asyncio.to_thread(self.archive(key).unlink, missing_ok=True)


def _file_name(name: str) -> str:
    """A file name for any text, the same each time, another for each text."""
    quoted = "~" + quote(name, safe="")
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    return quoted[:40] + hashlib.sha256(name.encode()).hexdigest()
