"""Files and images that come with a message."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmesh.conversation.v1.message_pb2 import BlobPart, Part
from agentmesh.gateway.v1.blob_service_pb2 import UploadBlobRequest

CHUNK_BYTES = 1 << 20
_UNKNOWN = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Attachment:
    """Bytes that were uploaded; the same one may come with any number of messages."""

    digest: str
    size: int
    media_type: str
    filename: str

    def as_part(self) -> Part:
        """As messages refer to it."""
        return Part(
            blob=BlobPart(
                digest=self.digest,
                size_bytes=self.size,
                media_type=self.media_type,
                filename=self.filename,
            )
        )


def parts_of(attachments: Iterable[Attachment]) -> list[Part]:
    """As requests carry them."""
    return [attachment.as_part() for attachment in attachments]


def described(source: Path | bytes, media_type: str, filename: str) -> tuple[bytes, str, str]:
    """The bytes, with what they are and are called; the file's own where nothing is said."""
    if isinstance(source, Path):
        data, filename = source.read_bytes(), filename or source.name
    else:
        data = source
    guessed, _ = mimetypes.guess_type(filename)
    return data, media_type or guessed or _UNKNOWN, filename


class Upload:
    """One upload, as a method of which each call sends the bytes anew; a repetition is harmless."""

    def __init__(self, upload: Any) -> None:
        self._upload = upload

    def __call__(self, data: bytes, **options: Any) -> Any:
        """The call, to be awaited."""
        return self._upload(_chunks(data), **options)


async def _chunks(data: bytes) -> AsyncIterator[UploadBlobRequest]:
    yield UploadBlobRequest(size_bytes=len(data), chunk=data[:CHUNK_BYTES])
    for at in range(CHUNK_BYTES, len(data), CHUNK_BYTES):
        yield UploadBlobRequest(chunk=data[at : at + CHUNK_BYTES])
