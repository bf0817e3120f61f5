"""The log files of the services."""

import asyncio
from collections.abc import Callable
from pathlib import Path

_ROTATE_AT_BYTES = 10 * 1024 * 1024
_POLL_SECONDS = 0.2
_CHUNK_BYTES = 64 * 1024


def rotate(path: Path) -> None:
    """Moves a log that has grown past 10 MiB aside; one older file is kept."""
    if path.exists() and path.stat().st_size > _ROTATE_AT_BYTES:
        path.replace(path.with_suffix(path.suffix + ".1"))


def last_lines(path: Path, count: int) -> list[str]:
    """At most the `count` last lines of a log; none if it cannot be read."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _CHUNK_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


async def follow(path: Path, on_line: Callable[[str], None]) -> None:
    """Calls `on_line` with each line written to `path` from now on, until it is cancelled."""
    position = _size(path)
    pending = b""
    while True:
        data = _read_from(path, position)
        position += len(data)
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            on_line(line.decode("utf-8", "replace"))
        if len(data) < _CHUNK_BYTES:
            await asyncio.sleep(_POLL_SECONDS)


def _read_from(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(position)
            return stream.read(_CHUNK_BYTES)
    except FileNotFoundError:
        return b""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
