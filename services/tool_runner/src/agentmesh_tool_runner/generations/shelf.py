"""What is needed of the store to keep files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentmesh_tool_runner.sandbox.model import WorkspaceKey

from .manifest import Change, State


@dataclass(frozen=True)
class Head:
    """Where the files stand now, and the states that turns go back to."""

    now: State
    earlier: Sequence[State]


class ShelfUnavailableError(Exception):
    """The store cannot be reached now."""


class Shelf(Protocol):
    """The store, under the rights of whoever is served. Its errors pass through, and reading
    raises ShelfUnavailableError."""

    async def head(self, key: WorkspaceKey) -> Head:
        """Where the files of a conversation stand."""
        ...

    def read(self, digest: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob from an offset on."""
        ...

    async def write(self, chunks: Callable[[], AsyncIterator[bytes]], size: int) -> str:
        """Keeps a blob of that size; returns its digest. May ask for the chunks again."""
        ...

    def is_passing(self, error: Exception) -> bool:
        """True if what failed with this error may succeed later."""
        ...

    async def save(self, key: WorkspaceKey, change: Change, earlier: Sequence[Change]) -> State:
        """Records a change that no run makes. Raises MovedError."""
        ...
