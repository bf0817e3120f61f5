"""The files of a workspace that is in a container: every operation is done there by the agent."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from agentmesh_tool_runner.sandbox import snapshot
from agentmesh_tool_runner.sandbox.model import MIB, WorkspaceFullError
from agentmesh_tool_runner.sandbox.reach import Reach

from . import staging
from .container import Container

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_PIECE: Final = 4 * MIB


class ContainerReach(Reach):
    """Reaches a workspace through the container that keeps it."""

    def __init__(self, keeper: Container, size: int) -> None:
        self._keeper = keeper
        self._size = size
        self._full = False

    @property
    def full(self) -> bool:
        return self._full

    def told_full(self, full: bool) -> None:
        """What the agent said when a program had ended."""
        self._full = full

    async def call(
        self,
        operation: Callable[Concatenate[int, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        if sum(len(each) for each in args if isinstance(each, bytes)) > self._size:
            raise WorkspaceFullError("the workspace is full")
        return cast(_Result, await self._keeper.call(operation, *args, **kwargs))

    async def restore(self, archive: Path, *, uid: int | None) -> list[snapshot.Entry]:
        if await asyncio.to_thread(archive.exists):
            with await asyncio.to_thread(archive.open, "rb") as file:
                while piece := await asyncio.to_thread(file.read, _PIECE):
                    await self.call(staging.append, piece)
        return await self.call(staging.restore)

    async def save(
        self, archive: Path, *, max_bytes: int, before: list[snapshot.Entry] | None
    ) -> list[snapshot.Entry]:
        entries, size = await self.call(staging.save, max_bytes, before)
        if size:
            try:
                await self._fetch(archive, size)
            finally:
                await self.call(staging.drop)
        return entries

    async def _fetch(self, archive: Path, size: int) -> None:
        """Takes the archive over; it replaces the old one as a whole or not at all."""
        await asyncio.to_thread(archive.parent.mkdir, parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=archive.parent, prefix=".saving-")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                fetched = 0
                while fetched < size:
                    piece = await self.call(staging.read, fetched, _PIECE)
                    if not piece:
                        raise OSError(f"the archive ended after {fetched} of {size} bytes")
                    await asyncio.to_thread(file.write, piece)
                    fetched += len(piece)
                await asyncio.to_thread(_make_durable, file)
            await asyncio.to_thread(temporary.replace, archive)
        except BaseException:
            await asyncio.to_thread(temporary.unlink, missing_ok=True)
            raise

    def close(self) -> None:
        """The keeper is closed by its backend."""


def _make_durable(file: Any) -> None:
    file.flush()
    os.fdatasync(file.fileno())
