"""Messages in lines of JSON, complete: what JSON cannot say of a message goes beside it as bytes.

That is what this version does not know of it, and numbers that JSON has no form for.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from meshkit.errors import MeshError

M = TypeVar("M", bound=Message)

VERSION = 1
BYTES_A_LINE = 192 * 1024
"""Of blobs and checkpoints, before they are written in base 64."""


def line(**fields: object) -> bytes:
    """One line."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def data_line(data: bytes) -> bytes:
    """A part of a blob or of a checkpoint."""
    return line(data=base64.b64encode(data).decode())


def fields_of(name: str, message: Message, data: bytes) -> dict[str, object]:
    """A message as a field `name`, and as `name_bytes` beside it if need be. `data` are its
    bytes."""
    try:
        document = json_format.MessageToDict(message, preserving_proto_field_name=True)
        again = json_format.ParseDict(document, type(message)())
        complete = again.SerializeToString() == data
    except (json_format.Error, ValueError, RecursionError):
        document, complete = {}, False
    if complete:
        return {name: document}
    return {name: document, f"{name}_bytes": base64.b64encode(data).decode()}


def message_line(name: str, message: Message, data: bytes, most_bytes: int) -> bytes:
    """A line of one message: as bytes alone if it were longer than `most_bytes` otherwise."""
    whole = line(**fields_of(name, message, data))
    if len(whole) <= most_bytes:
        return whole
    return line(**{name: {}, f"{name}_bytes": base64.b64encode(data).decode()})


class Fields:
    """The fields of a line or of an object in it. Whatever is wrong is told by line and field."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise MeshError.invalid(path, "must be a JSON object")
        self.path = path
        self._values: dict[str, Any] = value

    @classmethod
    def of_line(cls, number: int, text: bytes) -> Fields:
        """Those of the line of that number."""
        path = f"lines[{number}]"
        try:
            return cls(json.loads(text), path)
        except (ValueError, RecursionError) as error:
            raise MeshError.invalid(path, f"is not JSON: {error}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._values

    @property
    def names(self) -> list[str]:
        """In their order."""
        return list(self._values)

    def wrong(self, name: str, description: str) -> MeshError:
        """The refusal of a field."""
        return MeshError.invalid(f"{self.path}.{name}", description)

    def inner(self, name: str) -> Fields:
        """An object."""
        return Fields(self._values.get(name), f"{self.path}.{name}")

    def text(self, name: str) -> str:
        """A string; "" if it is not there."""
        value = self._values.get(name, "")
        if not isinstance(value, str):
            raise self.wrong(name, "must be a string")
        return value

    def flag(self, name: str) -> bool:
        """True or false, which it is if it is not there."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def number(self, name: str) -> int:
        """A whole number from 0; 0 if it is not there."""
        return self._whole(name, self._values.get(name, 0))

    def numbers(self, name: str) -> list[int]:
        """Whole numbers."""
        values = self._values.get(name, [])
        if not isinstance(values, list):
            raise self.wrong(name, "must be an array")
        return [self._whole(f"{name}[{index}]", value) for index, value in enumerate(values)]

    def _whole(self, name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self.wrong(name, "must be a whole number, 0 at least")
        return value

    def data(self, name: str) -> bytes:
        """Bytes in base 64."""
        try:
            return base64.b64decode(self.text(name), validate=True)
        except (binascii.Error, ValueError):
            raise self.wrong(name, "is not base 64") from None

    def message(self, name: str, kind: type[M]) -> tuple[M, bytes | None]:
        """A message, and its bytes if they came beside it."""
        beside = f"{name}_bytes"
        if beside in self:
            data = self.data(beside)
            try:
                return kind.FromString(data), data
            except DecodeError:
                raise self.wrong(beside, f"is no {kind.DESCRIPTOR.name}") from None
        self.inner(name)
        try:
            return json_format.ParseDict(self._values[name], kind()), None
        except (json_format.Error, ValueError, TypeError, RecursionError) as error:
            raise self.wrong(name, str(error)) from None
