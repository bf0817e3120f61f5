"""What somebody types, or a pipe brings, line by line, without a thread that nobody could stop."""

import asyncio
import os
import sys
from collections import deque

_PIECE_BYTES = 65536
_LONGEST_LINE_BYTES = 1024 * 1024


class TypedLines:
    """Lines of standard input."""

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno()
        self._lines: deque[str] = deque()
        self._begun = b""
        self._ended = False

    async def next(self) -> str | None:
        """The next line without its end; None when there are no more."""
        while not self._lines:
            if self._ended:
                return None
            await self._readable()
            self._take(os.read(self._descriptor, _PIECE_BYTES))
        return self._lines.popleft()

    def _take(self, data: bytes) -> None:
        *whole, self._begun = (self._begun + data).split(b"\n")
        if not data or len(self._begun) > _LONGEST_LINE_BYTES:
            whole, self._begun = [*whole, self._begun], b""
            self._ended = not data
        self._lines += (line.decode(errors="replace") for line in whole if line or data)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, readable.set)
        except PermissionError:  # a file, which always is
            return
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._descriptor)
