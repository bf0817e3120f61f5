"""How the service reaches the files of an open workspace, wherever they are.

Every operation on a workspace is a function of `snapshot` or of a module in `files`: standard
library only, its first argument a descriptor of the workspace's root directory, its other arguments
and its result plain data (text, bytes, numbers, lists, dataclasses of theirs). So the same code
runs in a thread of the service where the workspace is mounted here, and inside the sandbox where it
is not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from . import snapshot
from .execution import is_full

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# To look at them takes no longer than to have a thread do it.
_FEW: Final = 32


class Reach(Protocol):
    """The files of one open workspace."""

    @property
    def full(self) -> bool:
        """True if there was no room for another file when this was last known."""
        ...

    async def call(
        self,
        operation: Callable[Concatenate[int, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        """Runs an operation on the root directory. Raises what it raises."""
        ...

    @property
    def small(self) -> bool:
        """True if to look at all files takes no time."""
        return False

    async def look(
        self,
        operation: Callable[Concatenate[int, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        """The same for one that takes as long as there are files, and only looks at them."""
        return await self.call(operation, *args, **kwargs)

    async def restore(self, archive: Path, *, uid: int | None) -> list[snapshot.Entry]:
        """As `snapshot.restore`; the archive is on this machine."""
        ...

    async def save(
        self, archive: Path, *, max_bytes: int, before: list[snapshot.Entry] | None
    ) -> list[snapshot.Entry]:
        """As `snapshot.save`; the archive is on this machine."""
        ...

    def close(self) -> None:
        """Lets go of the files. Idempotent."""
        ...


def _has_few(root: int) -> bool:
    """True if the file system, in memory and of this workspace alone, holds only a few names."""
    status = os.fstatvfs(root)
    return 0 < status.f_files <= status.f_ffree + _FEW


class LocalReach(Reach):
    """A workspace that is mounted on this machine; owns the descriptor of its root."""

    def __init__(self, root: int) -> None:
        self._root = root

    async def call(
        self,
        operation: Callable[Concatenate[int, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        return await asyncio.to_thread(operation, self._root, *args, **kwargs)

    @property
    def small(self) -> bool:
        return self._root >= 0 and _has_few(self._root)

    async def look(
        self,
        operation: Callable[Concatenate[int, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        if self.small:
            return operation(self._root, *args, **kwargs)
        return await self.call(operation, *args, **kwargs)

    async def restore(self, archive: Path, *, uid: int | None) -> list[snapshot.Entry]:
        return await self.call(snapshot.restore, archive, uid=uid)

    async def save(
        self, archive: Path, *, max_bytes: int, before: list[snapshot.Entry] | None
    ) -> list[snapshot.Entry]:
        return await self.call(snapshot.save, archive, max_bytes=max_bytes, before=before)

    @property
    def full(self) -> bool:
        return self._root >= 0 and is_full(self._root)

    def close(self) -> None:
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
