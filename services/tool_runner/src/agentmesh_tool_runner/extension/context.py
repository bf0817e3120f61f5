"""What a tool is given besides its arguments: files of the conversation, progress, time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class FileStat:
    """An entry of the workspace; `kind` is file, directory, link or other."""

    path: str
    kind: str
    size: int


class Files(Protocol):
    """The files of the conversation. Paths are relative; none leads out.

    Raises OSError as files of the machine do: FileNotFoundError, PermissionError for a path that
    leads out, ENOSPC where the workspace is full.
    """

    def list(self, path: str = ".") -> Sequence[FileStat]:
        """What is below a folder, depth first, a thousand entries at most."""
        ...

    def read(self, path: str) -> bytes:
        """A whole file."""
        ...

    def read_text(self, path: str) -> str:
        """A whole file that is UTF-8."""
        ...

    def write(self, path: str, data: bytes | str, *, append: bool = False) -> None:
        """Writes a file and makes its folders."""
        ...

    def move(self, path: str, destination: str) -> None:
        """Renames a file or folder."""
        ...

    def remove(self, path: str) -> None:
        """Removes a file, or a folder with all below."""
        ...


@dataclass(frozen=True)
class _Common:
    """What both kinds of context have.

    `tool_call_id` is the same on every attempt at the call: a key for whatever must not be done
    twice. `log` goes to the log of the service and not to the model.
    """

    agent: str
    tool_call_id: str
    traceparent: str
    deadline: float
    log: logging.Logger
    say: Callable[[str], None]

    def progress(self, text: str) -> None:
        """Tells those who watch the conversation how far the call is."""
        self.say(text)

    @property
    def remaining_seconds(self) -> float:
        """Until the call is killed."""
        return max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True)
class Context(_Common):
    """For a tool that is a plain function: annotate a parameter with it."""

    files: Files


class AsyncFiles:
    """`Files` for coroutines."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def list(self, path: str = ".") -> Sequence[FileStat]:
        """See Files."""
        return await asyncio.to_thread(self._files.list, path)

    async def read(self, path: str) -> bytes:
        """See Files."""
        return await asyncio.to_thread(self._files.read, path)

    async def read_text(self, path: str) -> str:
        """See Files."""
        return await asyncio.to_thread(self._files.read_text, path)

    async def write(self, path: str, data: bytes | str, *, append: bool = False) -> None:
        """See Files."""
        await asyncio.to_thread(self._files.write, path, data, append=append)

    async def move(self, path: str, destination: str) -> None:
        """See Files."""
        await asyncio.to_thread(self._files.move, path, destination)

    async def remove(self, path: str) -> None:
        """See Files."""
        await asyncio.to_thread(self._files.remove, path)


@dataclass(frozen=True)
class AsyncContext(_Common):
    """For a tool that is a coroutine function: annotate a parameter with it."""

    files: AsyncFiles
