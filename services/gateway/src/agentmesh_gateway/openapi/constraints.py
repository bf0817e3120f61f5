"""The rules of fields (`buf.validate.field`) as keywords of JSON schema.

What JSON schema cannot say (sizes in bytes, rules across fields) is left to the server. A schema
never refuses what the server takes, and what it cannot say it leaves open.
"""

from __future__ import annotations

import re
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor

from agentmesh_gateway.descriptors import is_map, is_repeated
from agentmesh_gateway.rest.enums import enum_codec

Schema = dict[str, Any]
"""A JSON schema."""

_NUMBER_KEYWORDS = {
    "gt": "exclusiveMinimum",
    "gte": "minimum",
    "lt": "exclusiveMaximum",
    "lte": "maximum",
    "const": "const",
}
_TEXT_KEYWORDS = {
    "min_len": "minLength",
    "max_len": "maxLength",
    "pattern": "pattern",
    "const": "const",
}
_NUMBERS = frozenset(
    f"{prefix}{width}"
    for prefix in ("int", "uint", "sint", "fixed", "sfixed")
    for width in (32, 64)
) | {"float", "double"}


def rules_of(field: FieldDescriptor) -> validate_pb2.FieldRules:
    """The rules of a field; empty if it has none."""
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def constrain(schema: Schema, field: FieldDescriptor, rules: validate_pb2.FieldRules) -> None:
    """Adds what `rules` say of one value of `field` to its schema."""
    kind = rules.WhichOneof("type")
    if kind == "string":
        _constrain_text(schema, rules.string)
    elif kind == "bytes":
        _constrain_bytes(schema, rules.bytes)
    elif kind == "enum":
        _constrain_enum(schema, field, rules.enum)
    elif kind in _NUMBERS:
        of_kind: Any = getattr(rules, kind)
        for name, keyword in _NUMBER_KEYWORDS.items():
            if of_kind.HasField(name):
                schema[keyword] = getattr(of_kind, name)
                if keyword.startswith("exclusive"):
                    schema.pop(_NUMBER_KEYWORDS[f"{name}e"], None)
        if "pattern" in schema:
            schema["pattern"] = _digits(schema)
        if values := list(getattr(of_kind, "in")):
            schema["enum"] = values


def _digits(schema: Schema) -> str:
    """Of an integer that may be written as a string: what its lower bound leaves."""
    if schema.get("exclusiveMinimum", -1) >= 0 or schema.get("minimum", -1) > 0:
        return "^0*[1-9][0-9]*$"
    return "^[0-9]+$" if schema.get("minimum", -1) == 0 else "^-?[0-9]+$"


def constrain_list(schema: Schema, rules: validate_pb2.RepeatedRules) -> None:
    """Adds what the rules say of a list as a whole."""
    if rules.min_items:
        schema["minItems"] = rules.min_items
    if rules.HasField("max_items"):
        schema["maxItems"] = rules.max_items
    if rules.unique:
        schema["uniqueItems"] = True


def constrain_map(schema: Schema, rules: validate_pb2.MapRules) -> None:
    """Adds what the rules say of a map as a whole, and of its keys."""
    if rules.min_pairs:
        schema["minProperties"] = rules.min_pairs
    if rules.HasField("max_pairs"):
        schema["maxProperties"] = rules.max_pairs
    keys: Schema = {}
    _constrain_text(keys, rules.keys.string)
    if keys:
        schema["propertyNames"] = keys


def is_required(field: FieldDescriptor) -> bool:
    """Whether a request without the field is refused.

    A field that cannot tell "not set" from zero is required if its rules refuse zero.
    """
    rules = rules_of(field)
    if rules.required:
        return True
    if field.has_presence or rules.ignore:
        return False
    if is_map(field):
        return rules.map.min_pairs > 0
    if is_repeated(field):
        return rules.repeated.min_items > 0
    return _refuses_zero(field, rules)


def _refuses_zero(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> bool:
    kind = rules.WhichOneof("type")
    if kind == "string":
        text = rules.string
        too_short = text.min_len or text.min_bytes or text.len or getattr(text, "in")
        return bool(too_short or (text.pattern and not re.search(text.pattern, "")))
    if kind == "bytes":
        return bool(rules.bytes.min_len or rules.bytes.len)
    if kind == "enum":
        allowed = list(getattr(rules.enum, "in"))
        return 0 in rules.enum.not_in or bool(allowed and 0 not in allowed)
    if kind in _NUMBERS:
        numbers: Any = getattr(rules, kind)
        too_small = (numbers.HasField("gt") and numbers.gt >= 0) or numbers.gte > 0
        allowed = list(getattr(numbers, "in"))
        return bool(too_small or (allowed and 0 not in allowed))
    return False


def _constrain_text(schema: Schema, rules: validate_pb2.StringRules) -> None:
    for name, keyword in _TEXT_KEYWORDS.items():
        if rules.HasField(name):  # type: ignore[arg-type]  # names of the table above
            schema[keyword] = getattr(rules, name)
    if rules.HasField("len"):
        schema |= {"minLength": rules.len, "maxLength": rules.len}
    if rules.min_bytes:
        schema["minLength"] = 1
    if rules.HasField("max_bytes"):
        # A character has at least one byte.
        schema["maxLength"] = min(rules.max_bytes, schema.get("maxLength", rules.max_bytes))
    if values := list(getattr(rules, "in")):
        schema["enum"] = values


def _constrain_bytes(schema: Schema, rules: validate_pb2.BytesRules) -> None:
    longest = rules.len if rules.HasField("len") else rules.max_len
    if longest:
        schema["maxLength"] = 4 * -(-longest // 3)
    if rules.min_len or rules.len:
        schema["minLength"] = 1


def _constrain_enum(schema: Schema, field: FieldDescriptor, rules: validate_pb2.EnumRules) -> None:
    allowed = set(getattr(rules, "in"))
    refused = set(rules.not_in)
    if field.enum_type is None or (not allowed and not refused):
        return
    codec = enum_codec(field.enum_type)
    numbers = [value.number for value in field.enum_type.values]
    names = [
        codec.encode(number)
        for number in numbers
        if number and number not in refused and (not allowed or number in allowed)
    ]
    named: Schema = {"type": "string", "enum": names}
    if "anyOf" in schema:  # in a body, numbers stand beside the names
        schema["anyOf"] = [named, *schema["anyOf"][1:]]
    else:
        schema.pop("$ref", None)
        schema |= named
