"""Enum values as people write them: `CONVERSATION_STATUS_RUNNING` is "running"."""

from __future__ import annotations

import re
from functools import cache

from google.protobuf.descriptor import EnumDescriptor

_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class EnumCodec:
    """Both directions of one enum type."""

    def __init__(self, descriptor: EnumDescriptor) -> None:
        prefix = _WORD_BOUNDARY.sub("_", descriptor.name).upper() + "_"
        self._short: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        for value in descriptor.values:
            short = value.name.removeprefix(prefix).lower()
            self._short.setdefault(value.number, short)
            self._numbers[short] = value.number
            self._numbers[value.name.lower()] = value.number

    def encode(self, number: int) -> str | int:
        """The short name; the number itself if this version does not know it."""
        return self._short.get(number, number)

    def decode(self, value: object) -> int | None:
        """The number of a short name, a full name (either in any case) or a number; else None."""
        if isinstance(value, str):
            return self._numbers.get(value.lower())
        if isinstance(value, int) and not isinstance(value, bool):
            return value if -(2**31) <= value < 2**31 else None
        return None

    def known(self) -> str:
        """The short names, for error messages."""
        names = [name for number, name in sorted(self._short.items()) if number != 0]
        return ", ".join(names or self._short.values())


@cache
def enum_codec(descriptor: EnumDescriptor) -> EnumCodec:
    """The codec of an enum type."""
    return EnumCodec(descriptor)
