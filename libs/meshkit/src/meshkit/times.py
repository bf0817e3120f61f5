"""Timestamps and durations that are none: protobuf decodes them, and no clock, calendar or database
takes them.

Which fields of a message type hold such is found out once per type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from meshkit.descriptors import is_repeated
from meshkit.mesh_error import FieldViolation

_TIMESTAMP = "google.protobuf.Timestamp"
_DURATION = "google.protobuf.Duration"
_FIRST_SECOND = -62_135_596_800  # 0001-01-01T00:00:00Z
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z
_LONGEST_SECONDS = 315_576_000_000  # some 10,000 years
_SECOND = 1_000_000_000


def impossible_times(message: Message) -> list[FieldViolation]:
    """The fields of `message`, and of the messages in it, that are no time at all."""
    places = _places(message.DESCRIPTOR)
    return list(_found(message, places, "")) if places else []


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    type: Descriptor
    repeated: bool
    map: bool


def _found(message: Any, places: tuple[_Place, ...], before: str) -> Iterator[FieldViolation]:
    for place in places:
        if not place.repeated:
            if message.HasField(place.name):
                yield from _judged(getattr(message, place.name), place, before + place.name)
            continue
        items = getattr(message, place.name)
        pairs = items.items() if place.map else enumerate(items)
        for key, item in pairs:
            subscript = f'["{key}"]' if isinstance(key, str) else f"[{key}]"
            yield from _judged(item, place, before + place.name + subscript)


def _judged(value: Any, place: _Place, path: str) -> Iterator[FieldViolation]:
    name = place.type.full_name
    if name == _TIMESTAMP:
        if not (_FIRST_SECOND <= value.seconds <= _LAST_SECOND and 0 <= value.nanos < _SECOND):
            yield FieldViolation(path, "must be a time in the years 1 to 9999")
    elif name == _DURATION:
        if not _is_duration(value.seconds, value.nanos):
            yield FieldViolation(path, "must be a duration of at most 10,000 years")
    else:
        yield from _found(value, _places(place.type), f"{path}.")


def _is_duration(seconds: int, nanos: int) -> bool:
    one_sign = seconds == 0 or nanos == 0 or (seconds > 0) == (nanos > 0)
    return one_sign and abs(seconds) <= _LONGEST_SECONDS and abs(nanos) < _SECOND


@cache
def _places(descriptor: Descriptor) -> tuple[_Place, ...]:
    """The fields that are times, or lead to some."""
    return tuple(
        place
        for field in descriptor.fields
        if (place := _place(field)) is not None and _leads_to_times(place.type, frozenset())
    )


def _place(field: FieldDescriptor) -> _Place | None:
    nested = field.message_type
    if nested is None:
        return None
    repeated = is_repeated(field)
    if not nested.GetOptions().map_entry:
        return _Place(field.name, nested, repeated, map=False)
    value = nested.fields_by_name["value"].message_type
    return None if value is None else _Place(field.name, value, repeated, map=True)


def _leads_to_times(descriptor: Descriptor, above: frozenset[str]) -> bool:
    name = descriptor.full_name
    if name in (_TIMESTAMP, _DURATION):
        return True
    if name in above:  # a type may hold itself
        return False
    return any(
        place is not None and _leads_to_times(place.type, above | {name})
        for place in map(_place, descriptor.fields)
    )
