"""What a worker prints: read as it comes, told to the call that it belongs to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from agentmesh_tool_runner.sandbox.model import Output, Stream

_PIECE_BYTES: Final = 64 * 1024
_MAX_DRAINED: Final = 4 * 1024 * 1024

Sink = Callable[[Output], None]


class Tap:
    """The reading end of a pipe. What is printed between calls is thrown away."""

    def __init__(self, descriptor: int, stream: Stream) -> None:
        self._descriptor = descriptor
        self._stream = stream
        self.sink: Sink | None = None
        self._open = True
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> int:
        """How much there was."""
        try:
            data = os.read(self._descriptor, _PIECE_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._ignore()
        elif self.sink is not None:
            self.sink(Output(self._stream, data))
        return len(data)

    def drain(self) -> None:
        """Reads what has been printed up to now."""
        read = 0
        while self._open and read < _MAX_DRAINED and (size := self._read()):
            read += size

    def _ignore(self) -> None:
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def close(self) -> None:
        """Reads no more."""
        self._ignore()
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1


class Bounded:
    """A sink that passes on so many bytes, and drops the rest."""

    def __init__(self, sink: Sink, limit: int) -> None:
        self._sink = sink
        self._left = limit

    def __call__(self, piece: Output) -> None:
        """Passes on what still fits."""
        kept = piece.data[: self._left]
        self._left -= len(kept)
        if kept:
            self._sink(Output(piece.stream, kept))
