"""Images of inputs: referred to in a team's state, and read when a model is asked.

AutoGen keeps an image in its state as the base64 of a PNG, once for each agent that heard it. What
it is given here is a picture of one row whose pixels spell where the real one is: of a few hundred
bytes, whole again after any number of checkpoints, and no secret to those who read them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from autogen_core import Image
from autogen_core.models import LLMMessage, UserMessage
from PIL import Image as Picture
from typing_extensions import override

MEDIA_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""What models can be shown."""

LARGEST_IMAGE: Final = 20 << 20
"""Bytes of one image that a model is shown."""

MOST_BYTES: Final = 32 << 20
"""Of all images in one request. The newest ones are shown."""

_MAGIC: Final = b"agentmesh-image/1 "
_LONGEST: Final = 4096


@dataclass(frozen=True)
class StoredImage:
    """Where an image is, by the digest of its bytes, and what is known of it."""

    digest: str
    media_type: str
    size_bytes: int
    filename: str = ""

    @property
    def placeholder(self) -> str:
        """What stands in its place where it cannot be shown."""
        return f"[{self.filename or 'an image'}: {self.media_type}, {self.size_bytes} bytes]"

    def as_picture(self) -> Image:
        """The picture that refers to it. `of_picture` reads it, also out of a saved state."""
        text = _MAGIC + json.dumps(asdict(self), separators=(",", ":")).encode()
        text = text.ljust(-(-len(text) // 3) * 3)
        return Image(Picture.frombytes("RGB", (len(text) // 3, 1), text))

    @classmethod
    def of_picture(cls, picture: Image) -> StoredImage | None:
        """What a picture refers to; None if it is one itself."""
        if isinstance(picture, ShownImage) or picture.image.height != 1:
            return None
        text = picture.image.tobytes()
        if len(text) > _LONGEST or not text.startswith(_MAGIC):
            return None
        try:
            return cls(**json.loads(text.removeprefix(_MAGIC)))
        except (ValueError, TypeError):
            return None


class ShownImage(Image):
    """An image as it goes to a model server: the bytes as they were uploaded."""

    def __init__(self, media_type: str, data: bytes) -> None:
        self.media_type = media_type
        self._data = data

    @override
    def to_base64(self) -> str:
        return base64.b64encode(self._data).decode()

    @property
    @override
    def data_uri(self) -> str:
        return f"data:{self.media_type};base64,{self.to_base64()}"

    @override
    def to_openai_format(self, detail: Literal["auto", "low", "high"] = "auto") -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": self.data_uri, "detail": detail}}


def media_type_of(data: bytes) -> str:
    """What the bytes are, by their beginning; "" if none of MEDIA_TYPES."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return ""


ReadImage = Callable[[StoredImage], Awaitable[bytes | None]]


async def shown(messages: Sequence[LLMMessage], *, sees: bool, read: ReadImage) -> list[LLMMessage]:
    """The messages as a model is given them: with the images themselves if it `sees`.

    Otherwise, and where an image is gone, too large or none, a line says what there was.
    """
    left = MOST_BYTES
    told: list[LLMMessage] = []
    for message in reversed(messages):
        if not isinstance(message, UserMessage) or isinstance(message.content, str):
            told.append(message)
            continue
        parts: list[str | Image] = []
        for part in reversed(message.content):
            stored = None if isinstance(part, str) else StoredImage.of_picture(part)
            if stored is None:
                parts.append(part)
                continue
            fits = sees and stored.size_bytes <= min(left, LARGEST_IMAGE)
            image = await _image(stored, read) if fits else stored.placeholder
            left -= stored.size_bytes if isinstance(image, Image) else 0
            parts.append(image)
        told.append(_said(message, parts[::-1]))
    return told[::-1]


async def _image(stored: StoredImage, read: ReadImage) -> Image | str:
    data = await read(stored)
    if data is None:
        return f"{stored.placeholder} (removed)"
    media_type = media_type_of(data)
    if not media_type:
        return f"{stored.placeholder} (no image that can be shown)"
    return ShownImage(media_type, data)


def _said(message: UserMessage, parts: list[str | Image]) -> UserMessage:
    """Of words alone there is one text: servers of models that cannot see take nothing else."""
    words = [part for part in parts if isinstance(part, str)]
    if len(words) < len(parts):
        return UserMessage(content=parts, source=message.source)
    return UserMessage(content="\n".join(words), source=message.source)


def has_images(messages: Sequence[LLMMessage]) -> bool:
    """True if a model that is asked with these has to see."""
    return any(
        isinstance(part, Image)
        for message in messages
        if isinstance(message, UserMessage) and not isinstance(message.content, str)
        for part in message.content
    )
