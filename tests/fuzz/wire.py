"""Requests as bytes: messages of a type, written field by field, and what is no message at all."""

from __future__ import annotations

import struct
from random import Random

from agentmesh_gateway.descriptors import is_repeated
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.fuzz.boundaries import (
    BROKEN_TEXTS,
    FLOATS,
    HARMLESS,
    NANOS,
    POLICY,
    SECONDS,
    Known,
    integer,
    text,
)

_VARINT, _FIXED64, _BYTES, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_DEEPEST = 3
_FIXED = {
    FieldDescriptor.TYPE_DOUBLE: (_FIXED64, "<d"),
    FieldDescriptor.TYPE_FLOAT: (_FIXED32, "<f"),
}
_LENGTH_DELIMITED = {
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_MESSAGE,
}


def varint(number: int) -> bytes:
    """Of the lowest 64 bits."""
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """The key before a value."""
    return varint(number << 3 | wire_type)


def delimited(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return tag(number, _BYTES) + varint(len(content)) + content


def hostile_bytes(random: Random, descriptor: Descriptor, known: Known) -> bytes:
    """Bytes in the place of a serialized message of that type."""
    dice = random.random()
    if dice < 0.72 or known.calm:
        return message(random, descriptor, known)
    if dice < 0.78:
        return random.randbytes(random.choice((0, 1, 2, 3, 8, 40, 300)))
    whole = message(random, descriptor, known)
    if dice < 0.84:  # cut anywhere
        return whole[: random.randrange(len(whole) + 1)]
    if dice < 0.90:  # some bits turned over
        broken = bytearray(whole or b"\x00")
        for _ in range(random.randrange(1, 4)):
            broken[random.randrange(len(broken))] ^= 1 << random.randrange(8)
        return bytes(broken)
    return whole + _trouble(random, descriptor)


def message(random: Random, descriptor: Descriptor, known: Known, depth: int = 0) -> bytes:
    """A message that decodes, mostly: fields with values that may break every rule but the
    encoding's, some missing, some twice."""
    out = b""
    keep = 0.15 if known.calm else random.choice((0.15, 0.5, 0.9))
    for field in descriptor.fields:
        if random.random() > keep and not (field.name in known.values and random.random() < 0.8):
            continue
        times = random.choice((1, 1, 1, 2, 5)) if is_repeated(field) else 1
        if random.random() < 0.02 and not known.calm:
            times += 1
        for _ in range(times):
            out += _field(random, field, known, depth)
    return out


def _field(random: Random, field: FieldDescriptor, known: Known, depth: int) -> bytes:
    if field.containing_type is not None and field.containing_type.name == POLICY:
        if field.type in _LENGTH_DELIMITED:
            return delimited(field.number, b"")
        return tag(field.number, _VARINT) + varint(random.choice(HARMLESS))
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        nested = field.message_type
        assert nested is not None
        if nested.name in ("Timestamp", "Duration") and random.random() < 0.8:
            seconds, nanos = random.choice(SECONDS), random.choice(NANOS)
            return delimited(field.number, b"\x08" + varint(seconds) + b"\x10" + varint(nanos))
        content = message(random, nested, known, depth + 1) if depth < _DEEPEST else b""
        return delimited(field.number, content)
    if field.type == FieldDescriptor.TYPE_STRING:
        if random.random() < 0.01 and not known.calm:
            return delimited(field.number, random.choice(BROKEN_TEXTS))
        content = text(random, field.name, known).encode("utf-8", "replace")
        return delimited(field.number, content)
    if field.type == FieldDescriptor.TYPE_BYTES:
        if known.calm:
            return delimited(field.number, b"hello")
        return delimited(field.number, random.randbytes(random.choice((0, 1, 100, 5000))))
    if field.type in _FIXED:
        wire_type, form = _FIXED[field.type]
        number = random.choice([value for value in FLOATS if form == "<d" or abs(value) < 1e38])
        return tag(field.number, wire_type) + struct.pack(form, number)
    if field.type == FieldDescriptor.TYPE_ENUM and (known.calm or random.random() < 0.6):
        return tag(field.number, _VARINT) + varint(random.randrange(4 if known.calm else 8))
    small = known.calm or random.random() < 0.5
    return tag(field.number, _VARINT) + varint(random.randrange(6) if small else integer(random))


def _trouble(random: Random, descriptor: Descriptor) -> bytes:
    numbers = [field.number for field in descriptor.fields] or [1]
    number = random.choice(numbers)
    field = descriptor.fields_by_number.get(number)
    dice = random.randrange(10)
    if dice == 0:  # a length beyond the end
        return tag(number, _BYTES) + varint(random.choice((1, 2**20, 2**31 - 1, 2**32, 2**63)))
    if dice == 1:  # a varint that does not end, or is too long
        return tag(number, _VARINT) + b"\xff" * random.choice((1, 9, 10, 11, 40))
    if dice == 2:  # groups: nested, never ended, ended without a start
        return tag(number, _START_GROUP) * random.choice((1, 50, 5000))
    if dice == 3:
        return tag(number, _END_GROUP)
    if dice == 4:  # wire types 6 and 7 do not exist
        return tag(number, random.choice((6, 7))) + b"\x00"
    if dice == 5:  # field number 0, and the largest one
        return random.choice((b"\x00\x00", tag(2**29 - 1, _VARINT) + b"\x01", b"\x07"))
    if dice == 6:  # a field that nobody knows
        return delimited(random.randrange(1000, 19_000), b"from the future")
    if dice == 7:  # messages in messages, deeper than anybody reads
        inner = b""
        for _ in range(random.choice((20, 99, 101, 3000))):
            inner = delimited(number, inner)
        return inner
    if dice == 8:  # the right field in the wrong wire type
        is_delimited = field is not None and field.type in _LENGTH_DELIMITED
        return tag(number, _VARINT) + b"\x01" if is_delimited else delimited(number, b"\x08\x01")
    return tag(number, _FIXED32) + b"\x00\x01"
