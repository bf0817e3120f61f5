"""The files of the conversation as a worker sees them: the service reads and writes for it."""

from __future__ import annotations

import base64
import errno
from collections.abc import Callable, Sequence
from typing import Any

from agentmesh_tool_runner.extension.context import FileStat

from .frames import MAX_FILE_BYTES


class RemoteFiles:
    """Files over the line to the service."""

    def __init__(self, ask: Callable[..., dict[str, Any]]) -> None:
        self._ask = ask

    def list(self, path: str = ".") -> Sequence[FileStat]:
        """See Files."""
        return [FileStat(**each) for each in self._do("list", path)["entries"]]

    def read(self, path: str) -> bytes:
        """See Files."""
        data = bytearray()
        while True:
            answer = self._do("read", path, offset=len(data))
            piece = base64.b64decode(answer["data"])
            data += piece
            if len(piece) < MAX_FILE_BYTES:
                return bytes(data)

    def read_text(self, path: str) -> str:
        """See Files."""
        return self.read(path).decode()

    def write(self, path: str, data: bytes | str, *, append: bool = False) -> None:
        """See Files."""
        content = data.encode() if isinstance(data, str) else bytes(data)
        for start in range(0, max(1, len(content)), MAX_FILE_BYTES):
            piece = base64.b64encode(content[start : start + MAX_FILE_BYTES]).decode()
            self._do("write", path, data=piece, append=append or start > 0)

    def move(self, path: str, destination: str) -> None:
        """See Files."""
        self._do("move", path, destination=str(destination))

    def remove(self, path: str) -> None:
        """See Files."""
        self._do("remove", path)

    def _do(self, operation: str, path: str, **rest: Any) -> dict[str, Any]:
        answer = self._ask(kind="file", operation=operation, path=str(path), **rest)
        if "error" in answer:
            raise OSError(answer.get("errno") or errno.EIO, answer["error"], str(path))
        return answer
