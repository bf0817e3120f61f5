"""Requests that break the contract's field rules one by one, made from the descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agentmesh_gateway.descriptors import is_map, is_repeated, message_type
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass

_DEEPEST = 3
_UNDEFINED = 9999
_NUMBERS = ("int32", "int64", "uint32", "uint64", "float", "double")
Put = Callable[[Any], None]
"""Writes the value that breaks a rule into the message that holds the field."""


@dataclass(frozen=True)
class Breach:
    """One rule of one method's request, broken."""

    method: MethodDescriptor
    path: str
    """The field that must be named."""
    rule: str
    request: Any

    def __str__(self) -> str:
        return f"{self.method.full_name} {self.path} {self.rule}"


def breaches_of(method: MethodDescriptor) -> Iterator[Breach]:
    """Every rule of a method's request, each broken in a request of its own."""
    make = GetMessageClass(method.input_type)
    for way, path, rule, put in _rules(method.input_type, (), "", ()):
        request: Any = make()
        place = request
        for step in way:
            place = step(place)
        put(place)
        yield Breach(method, path, rule, request)


Step = Callable[[Any], Any]
_Rule = tuple[tuple[Step, ...], str, str, Put]


def _rules(
    descriptor: Descriptor, way: tuple[Step, ...], before: str, above: tuple[str, ...]
) -> Iterator[_Rule]:
    for field in descriptor.fields:
        options = field.GetOptions()
        if options.HasExtension(validate_pb2.field):
            rules = options.Extensions[validate_pb2.field]
            for subscript, rule, put in _broken(field, rules):
                yield way, before + field.name + subscript, rule, put
        if field.type != FieldDescriptor.TYPE_MESSAGE or is_map(field):
            continue
        nested = message_type(field)
        if nested.full_name.startswith("google.") or len(above) >= _DEEPEST:
            continue
        if nested.full_name in above:
            continue
        path = before + field.name + ("[0]." if is_repeated(field) else ".")
        yield from _rules(nested, (*way, _into(field)), path, (*above, nested.full_name))


def _into(field: FieldDescriptor) -> Step:
    name = field.name
    if is_repeated(field):
        return lambda message: getattr(message, name).add()

    def enter(message: Any) -> Any:
        nested = getattr(message, name)
        nested.SetInParent()
        return nested

    return enter


def _broken(field: FieldDescriptor, rules: Any) -> Iterator[tuple[str, str, Put]]:
    """Subscript, rule and what breaks it, for each rule of a field."""
    name = field.name
    if rules.required:
        yield "", "required", lambda message: message.ClearField(name)
    kind = rules.WhichOneof("type")
    if kind is None:
        return
    some = getattr(rules, kind)
    if kind == "repeated":
        yield from _broken_list(field, some)
    elif kind == "map":
        yield "", "max_pairs", _pairs(name, some.max_pairs + 1)
    else:
        for rule, value in _values(kind, some):
            yield "", rule, _setting(name, value)


def _broken_list(field: FieldDescriptor, rules: Any) -> Iterator[tuple[str, str, Put]]:
    name = field.name
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    if rules.HasField("max_items"):
        items = rules.max_items + 1
        yield "", "max_items", _messages(name, items) if is_message else _scalars(field, items)
    if rules.unique:
        yield "", "unique", lambda message: getattr(message, name).extend(["twice", "twice"])
    kind = rules.items.WhichOneof("type") if rules.HasField("items") else None
    if kind is not None:
        for rule, value in _values(kind, getattr(rules.items, kind)):
            yield "[0]", f"items.{rule}", _adding(name, value)


def _values(kind: str, rules: Any) -> Iterator[tuple[str, Any]]:
    """Values that break the rules of a scalar."""
    if kind == "string":
        yield from _texts(rules)
    elif kind == "bytes":
        yield "max_len", bytes(rules.max_len + 1)
    elif kind == "enum":
        yield from _enum_values(rules)
    elif kind in _NUMBERS:
        for rule, step in (("gt", 0), ("gte", -1), ("lt", 0), ("lte", 1)):
            if rules.HasField(rule):
                yield rule, getattr(rules, rule) + step
    elif kind == "duration":
        for rule, step in (("gt", 0), ("gte", -1), ("lt", 0), ("lte", 1)):
            if rules.HasField(rule):
                yield rule, _seconds(getattr(rules, rule).seconds + step)


def _texts(rules: Any) -> Iterator[tuple[str, str]]:
    if rules.min_len:
        yield "min_len", ""
    if rules.HasField("max_len"):
        yield "max_len", "a" * (rules.max_len + 1)
    if rules.HasField("max_bytes"):
        yield "max_bytes", "é" * (rules.max_bytes // 2 + 1)
    if rules.HasField("pattern"):
        yield "pattern", "no\tmatch"


def _enum_values(rules: Any) -> Iterator[tuple[str, int]]:
    if rules.defined_only:
        yield "defined_only", _UNDEFINED
    if getattr(rules, "in"):
        yield "in", _UNDEFINED
    for value in rules.not_in:
        yield "not_in", value


def _seconds(count: int) -> Any:
    return Duration(seconds=count)


def _setting(name: str, value: Any) -> Put:
    def put(message: Any) -> None:
        if hasattr(value, "CopyFrom"):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)

    return put


def _adding(name: str, value: Any) -> Put:
    return lambda message: getattr(message, name).append(value)


def _scalars(field: FieldDescriptor, count: int) -> Put:
    numbers = field.type != FieldDescriptor.TYPE_STRING
    items = [1 if numbers else f"item_{number}" for number in range(count)]
    return lambda message: getattr(message, field.name).extend(items)


def _messages(name: str, count: int) -> Put:
    def put(message: Any) -> None:
        for _ in range(count):
            getattr(message, name).add()

    return put


def _pairs(name: str, count: int) -> Put:
    def put(message: Any) -> None:
        for number in range(count):
            entries = getattr(message, name)
            if entries.GetEntryClass().DESCRIPTOR.fields_by_name["value"].message_type is None:
                entries[f"key_{number}"] = "value"
            else:
                entries[f"key_{number}"].SetInParent()

    return put
