"""Who is heard before whom, of members that speak at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


class Line:
    """The speakers of one wave, in the order in which their answers are heard.

    Nobody waits in a line that was never formed, or stands in none.
    """

    def __init__(self) -> None:
        self._ahead: list[str] = []
        self._moved = asyncio.Event()

    def form(self, speakers: Sequence[str]) -> None:
        """A new wave."""
        self._ahead = list(speakers)
        self._move()

    async def wait_for(self, name: str) -> None:
        """Returns when all before `name` have been heard."""
        while name in self._ahead and self._ahead[0] != name:
            await self._moved.wait()

    def leave(self, name: str) -> None:
        """It has been heard."""
        if name in self._ahead:
            self._ahead.remove(name)
            self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
