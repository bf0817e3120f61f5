"""Requests as JSON: documents of a message type with values of any type, and broken text."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from agentmesh_gateway.descriptors import is_repeated
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.fuzz.boundaries import BROKEN_TEXTS, FLOATS, HARMLESS, POLICY, Known, integer, text

_DEEPEST = 3
_ODD: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, {"@type": "x"})


def hostile_body(random: Random, descriptor: Descriptor, known: Known) -> bytes:
    """A body in the place of a JSON document of that type."""
    document = _document(random, descriptor, known, 0)
    whole = json.dumps(document, ensure_ascii=random.random() < 0.5)
    encoded = whole.encode("utf-8", "surrogatepass")
    dice = random.random()
    return encoded if dice < 0.75 or known.calm else _broken(random, encoded)


def anything(random: Random, name: str, known: Known, depth: int = 0) -> Any:
    """A value of any JSON type."""
    dice = random.random()
    if dice < 0.4:
        return text(random, name, known)
    if dice < 0.6:
        return integer(random)
    if dice < 0.7:
        return random.choice(FLOATS)
    if dice < 0.9 or depth > _DEEPEST:
        return random.choice(_ODD)
    if dice < 0.95:
        return [anything(random, name, known, depth + 1) for _ in range(random.randrange(4))]
    return {random.choice(("", "a", name)): anything(random, name, known, depth + 1)}


def _document(random: Random, descriptor: Descriptor, known: Known, depth: int) -> Any:
    document: dict[str, Any] = {}
    keep = 0.15 if known.calm else random.choice((0.1, 0.5, 0.9))
    for field in descriptor.fields:
        if random.random() > keep and not (field.name in known.values and random.random() < 0.8):
            continue
        document[field.name] = _value(random, field, known, depth)
    if random.random() < 0.1 and not known.calm:
        extra = random.choice(("x", "", "__class__", "taskk", "@type", "a\x00b"))
        document[extra] = anything(random, "x", known)
    return document


def _value(random: Random, field: FieldDescriptor, known: Known, depth: int) -> Any:
    if field.containing_type is not None and field.containing_type.name == POLICY:
        is_message = field.type == FieldDescriptor.TYPE_MESSAGE
        return {} if is_message else random.choice(HARMLESS)
    if random.random() < (0.01 if known.calm else 0.15):
        return anything(random, field.name, known)
    if is_repeated(field) and random.random() < 0.9:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {text(random, "", known): _single(random, field, known, depth) for _ in range(2)}
        count = 1 if known.calm else random.choice((0, 1, 1, 2, 2, 3, 70))
        return [_single(random, field, known, depth) for _ in range(count)]
    return _single(random, field, known, depth)


def _single(random: Random, field: FieldDescriptor, known: Known, depth: int) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        nested = field.message_type
        assert nested is not None
        if depth >= _DEEPEST or nested.full_name.startswith("google."):
            return anything(random, field.name, known)
        return _document(random, nested, known, depth + 1)
    if field.type == FieldDescriptor.TYPE_STRING:
        return text(random, field.name, known)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return random.random() < 0.5
    if field.type == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        value = random.choice(field.enum_type.values)
        short = value.name.rpartition("_")[2].lower()
        return short if known.calm else random.choice((short, value.name, value.number, "no"))
    if known.calm:
        return random.randrange(6)
    return integer(random) if random.random() < 0.8 else random.choice(FLOATS)


def _broken(random: Random, body: bytes) -> bytes:
    dice = random.randrange(11)
    if dice == 0:
        return body[: random.randrange(len(body) + 1)]
    if dice == 1:
        broken = bytearray(body)
        broken[random.randrange(len(broken))] = random.randrange(256)
        return bytes(broken)
    if dice == 2:
        return random.randbytes(random.choice((1, 10, 1000)))
    if dice == 3:
        opening = random.choice((b"[", b'{"a":', b'{"task":'))
        return opening * random.choice((10, 500, 100_000))
    if dice == 4:
        return body.replace(b"{", b'{"task":"a","task":"b",', 1)
    if dice == 5:
        return body + random.choice((b"x", b"{}", b"\x00", b","))
    if dice == 6:
        return b'{"task":"' + random.choice(BROKEN_TEXTS) + b'"}'
    if dice == 7:
        encoding = random.choice(("utf-16", "utf-32", "utf-16-le", "utf-8-sig", "utf-7"))
        return body.decode("utf-8", "replace").encode(encoding)
    if dice == 8:
        return b'{"max_rounds":' + b"9" * random.choice((30, 5000)) + b"}"
    if dice == 9:
        return random.choice(
            (b"", b" ", b"null", b"[]", b'"x"', b"0", b"NaN", b"-", b'{"a":1e999}')
        )
    return b'{"task":"\\ud800","agents":["\\udfff"]}'
