"""Messages as JSON schemas, saying what the JSON codec does.

A message that requests and responses share has two schemas: of a request, fields may be missing and
unknown ones are refused; of a response, fields are there unless they can be told to be unset, and
later versions may add more.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from agentmesh_gateway.descriptors import is_map, is_repeated, message_type
from agentmesh_gateway.openapi.comments import comment_of
from agentmesh_gateway.openapi.constraints import (
    Schema,
    constrain,
    constrain_list,
    constrain_map,
    is_required,
    rules_of,
)
from agentmesh_gateway.rest.enums import enum_codec

_MASK_PATH = r"\*|[a-z][a-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_-]*)*"
_ANY = "google.protobuf.Any"
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$",
        "examples": ["90s"],
    },
    "google.protobuf.FieldMask": {
        "type": "string",
        "pattern": rf"^(({_MASK_PATH})?(,({_MASK_PATH})?)*)?$",
    },
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Value": {},
    _ANY: {"type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"]},
}
_INTEGERS: dict[int, tuple[str, int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: ("int32", -(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: ("uint32", 0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: ("int64", -(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: ("uint64", 0, 2**64 - 1),
}
_ENUM_NUMBER: Schema = {
    "type": "integer",
    "format": "int32",
    "minimum": -(2**31),
    "maximum": 2**31 - 1,
    "description": "Its number in the contract, as JSON of protobuf has it.",
}
_LARGE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


class Schemas:
    """Makes schemas, and collects those that others refer to."""

    def __init__(self, requests: Iterable[Descriptor], responses: Iterable[Descriptor]) -> None:
        read = _reachable(requests)
        written = _reachable(responses)
        self._shared = {message.full_name for message in read & written}
        self._taken: dict[str, str] = {}
        self.components: dict[str, Schema] = {}

    def reference(self, message: Descriptor, *, request: bool) -> Schema:
        """A schema that refers to the one of `message`."""
        known = _WELL_KNOWN.get(message.full_name)
        if known is not None:
            return dict(known)
        suffix = "Input" if request and message.full_name in self._shared else ""
        name = self._name(message.full_name, suffix)
        if name not in self.components:
            self.components[name] = {}  # before its fields, which may lead back to it
            self.components[name] |= self.message(message, request=request)
        return {"$ref": f"#/components/schemas/{name}"}

    def message(self, message: Descriptor, *, request: bool, without: Iterable[str] = ()) -> Schema:
        """The schema of `message` itself, without the fields named."""
        left_out = set(without)
        fields = [field for field in message.fields if field.name not in left_out]
        schema: Schema = {
            "type": "object",
            "properties": {field.name: self.field(field, request=request) for field in fields},
        }
        always = is_required if request else _is_always_there
        if required := [field.name for field in fields if always(field)]:
            schema["required"] = required
        if request:
            schema["additionalProperties"] = False
        described = [comment_of(message.full_name), *_alternatives(message, left_out)]
        return _described(schema, " ".join(filter(None, described)))

    def field(self, field: FieldDescriptor, *, request: bool, query: bool = False) -> Schema:
        """The schema of the value of `field`."""
        rules = rules_of(field) if request else None
        if is_map(field):
            value = message_type(field).fields_by_name["value"]
            values = self._value(value, request=request, query=query)
            schema: Schema = {"type": "object", "additionalProperties": values}
            if rules is not None:
                constrain(values, value, rules.map.values)
                constrain_map(schema, rules.map)
        elif is_repeated(field):
            items = self._value(field, request=request, query=query)
            schema = {"type": "array", "items": items}
            if rules is not None:
                constrain(items, field, rules.repeated.items)
                constrain_list(schema, rules.repeated)
        else:
            schema = self._value(field, request=request, query=query)
            if rules is not None:
                constrain(schema, field, rules)
        if request and not query and not is_required(field):
            schema = or_null(schema)
        return _described(schema, comment_of(field.full_name))

    def _value(self, field: FieldDescriptor, *, request: bool, query: bool) -> Schema:
        """Of a single value, whether the field is repeated or not."""
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            return self.reference(message_type(field), request=request)
        if field.type == FieldDescriptor.TYPE_ENUM:
            named = self._enum(field.enum_type)
            return {"anyOf": [named, _ENUM_NUMBER]} if request and not query else named
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return {"type": "boolean"}
        if field.cpp_type in _FLOATS:
            return {"type": "number", "format": _float_format(field)}
        if field.cpp_type in _INTEGERS:
            return _integer(field.cpp_type, query=query)
        return {"type": "string"}

    def _enum(self, enum: EnumDescriptor | None) -> Schema:
        if enum is None:
            raise TypeError("the field has no enum")
        name = self._name(enum.full_name, "")
        if name not in self.components:
            codec = enum_codec(enum)
            values = [value for value in enum.values if value.number]
            said = [f"`{codec.encode(v.number)}`: {_value_comment(enum, v.name)}" for v in values]
            lines = [comment_of(enum.full_name), *(f"- {line}" for line in said)]
            self.components[name] = _described(
                {"type": "string", "enum": [codec.encode(value.number) for value in values]},
                "\n".join(filter(None, lines)),
            )
        return {"$ref": f"#/components/schemas/{name}"}

    def _name(self, full_name: str, suffix: str) -> str:
        """The short name; with its package in front if another message has the short one."""
        package, _, rest = full_name.partition(".v1.")
        name = (rest or full_name.rpartition(".")[2]) + suffix
        if self._taken.setdefault(name, full_name) != full_name:
            name = f"{package.rpartition('.')[2]}.{name}"
            self._taken[name] = full_name
        return name


def _reachable(messages: Iterable[Descriptor]) -> set[Descriptor]:
    found: set[Descriptor] = set()
    waiting = list(messages)
    while waiting:
        message = waiting.pop()
        if message in found or message.full_name in _WELL_KNOWN:
            continue
        found.add(message)
        waiting += [field.message_type for field in message.fields if field.message_type]
    return found


def _is_always_there(field: FieldDescriptor) -> bool:
    if field.has_presence:
        return False
    return field.type != FieldDescriptor.TYPE_ENUM or is_repeated(field)


def _alternatives(message: Descriptor, left_out: set[str]) -> Iterable[str]:
    """One sentence for each oneof."""
    for oneof in message.oneofs:
        names = [field.name for field in oneof.fields if field.name not in left_out]
        if len(names) > 1:
            yield f"At most one of these is set: {', '.join(names)}."


def _integer(cpp_type: int, *, query: bool) -> Schema:
    name, low, high = _INTEGERS[cpp_type]
    schema: Schema = {"type": "integer", "format": name, "minimum": low, "maximum": high}
    if cpp_type in _LARGE and not query:
        # Beyond 2^53 they are strings, because many readers of JSON would round them.
        schema |= {"type": ["integer", "string"], "pattern": "^-?[0-9]+$"}
    return schema


def or_null(schema: Schema) -> Schema:
    """In a body, null stands for a field that is not set, as everywhere in JSON of protobuf."""
    kinds = schema.get("type")
    if kinds is None:
        return {"anyOf": [schema, {"type": "null"}]} if schema else schema
    schema = {**schema, "type": [*([kinds] if isinstance(kinds, str) else kinds), "null"]}
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema


def _float_format(field: FieldDescriptor) -> str:
    return "float" if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else "double"


def _value_comment(enum: EnumDescriptor, name: str) -> str:
    return comment_of(f"{enum.full_name}.{name}")


def _described(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text} if text else schema
