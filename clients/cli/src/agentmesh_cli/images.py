"""Images from files of this machine."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agentmesh_client import AgentMesh, Attachment

from agentmesh_cli.errors import UsageError


@dataclass(frozen=True)
class LocalImages:
    """Images that were read and not uploaded yet."""

    found: Sequence[tuple[str, str, bytes]]

    @classmethod
    async def read(cls, files: Sequence[Path] | None) -> Self:
        """Raises UsageError for what is no image, before anything is started for it."""
        return cls([await asyncio.to_thread(_read, file) for file in files or ()])

    async def upload(self, mesh: AgentMesh) -> list[Attachment]:
        """Each as what messages refer to."""
        return [
            await mesh.attach(data, media_type=media_type, filename=name)
            for name, media_type, data in self.found
        ]


def _read(file: Path) -> tuple[str, str, bytes]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--image {file}: {error.strerror}", remedy="name a file that can be read"
        ) from None
    media_type = _media_type(data)
    if not media_type:
        raise UsageError(
            f"--image {file} is no image that models can be shown",
            remedy="convert it to PNG, JPEG, GIF or WebP",
        )
    return file.name, media_type, data


def _media_type(data: bytes) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else ""
