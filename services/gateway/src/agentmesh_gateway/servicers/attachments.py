"""What may come with a message besides its text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from agentmesh.conversation.v1 import message_pb2
from meshkit.errors import FieldViolation, MeshError

_KINDS = ("text", "data", "blob")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*(;.*)?")
_MOST_CHARACTERS = 255
_SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp")
_READ = "image/svg+xml"
"""Is a text."""


def check(parts: Iterable[message_pb2.Part]) -> None:
    """INVALID_ARGUMENT with every field that breaks a rule. Whether blobs exist the store says."""
    violations = [
        FieldViolation(f"parts[{index}]{path}", description)
        for index, part in enumerate(parts)
        for path, description in _problems(part)
    ]
    if violations:
        raise MeshError.invalid_fields(violations)


def _problems(part: message_pb2.Part) -> Iterator[tuple[str, str]]:
    kind = part.WhichOneof("kind")
    if kind not in _KINDS:
        yield "", f"is {kind or 'nothing'}; people may send {', '.join(_KINDS)}"
    if kind != "blob":
        return
    media_type, filename = part.blob.media_type, part.blob.filename
    if len(media_type) > _MOST_CHARACTERS or not _MEDIA_TYPE.fullmatch(media_type):
        yield ".blob.media_type", "say what it is, in lower case, for example image/png"
    elif media_type.startswith("image/") and media_type.partition(";")[0] not in (*_SHOWN, _READ):
        yield ".blob.media_type", f"models can be shown {', '.join(_SHOWN)}; convert the image"
    if len(filename) > _MOST_CHARACTERS or not (filename.isprintable() or not filename):
        yield ".blob.filename", f"has at most {_MOST_CHARACTERS} characters, all of them printable"
