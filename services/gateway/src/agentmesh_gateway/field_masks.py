"""Partial changes of messages: which fields a mask names, and what they become.

A path goes through messages and through maps of messages, whose keys stand in it: "role",
"llm_config.temperature", "tool_config.code_executor.timeout". It ends at lists and at the messages
of google.protobuf, which change as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from meshkit.errors import FieldViolation, MeshError

from agentmesh_gateway.descriptors import is_map, is_repeated, message_type

Path: TypeAlias = tuple[str, ...]

_EVERYTHING = "*"


def paths_of(mask: FieldMask, patch: Message) -> list[Path]:
    """The fields of `patch` to take over: those of the mask, without one those that have a value.

    "*" is every field. A mask takes fields without a value, too. Raises INVALID_ARGUMENT for paths
    that lead to no field.
    """
    if not mask.paths:
        return list(_with_value(patch))
    if _EVERYTHING in mask.paths:
        return [(field.name,) for field in patch.DESCRIPTOR.fields]
    paths = [tuple(path.split(".")) for path in mask.paths]
    message: Any = patch.DESCRIPTOR
    faults = [fault for path in paths if (fault := _fault(message, path))]
    if faults:
        raise MeshError.invalid_fields([FieldViolation("update_mask", fault) for fault in faults])
    return paths


def take_over(target: Message, patch: Message, paths: Iterable[Path]) -> None:
    """Makes these fields of `target` what they are in `patch`, which is of the same type."""
    for path in paths:
        _take_over(target, patch, path)


def copy_field(source: Message, target: Message, name: str) -> None:
    """Makes a field of `target` what the one of the same name and type is in `source`."""
    field: Any = source.DESCRIPTOR.fields_by_name[name]
    # To clear a field sets the message that it is in.
    if _has_value(target, field):
        target.ClearField(name)
    if not _has_value(source, field):
        return
    value: Any = getattr(source, name)
    if is_repeated(field):
        getattr(target, name).MergeFrom(value)
    elif field.message_type is not None:
        getattr(target, name).SetInParent()
        getattr(target, name).CopyFrom(value)
    else:
        setattr(target, name, value)


def _has_value(message: Message, field: Any) -> bool:
    if field.has_presence:
        return message.HasField(field.name)
    return bool(getattr(message, field.name))


def _take_over(target: Message, patch: Message, path: Path) -> None:
    name, rest = path[0], path[1:]
    if not rest:
        copy_field(patch, target, name)
        return
    into: Any = getattr(target, name)
    value: Any = getattr(patch, name)
    field: Any = patch.DESCRIPTOR.fields_by_name[name]
    if _entry(field) is None:
        _take_over(into, value, rest)
        return
    key, within = rest[0], rest[1:]
    if key not in value:
        # Reading a key that is not there would add it.
        if not within:
            into.pop(key, None)
        elif key in into:
            _take_over(into[key], type(into[key])(), within)
    elif within:
        _take_over(into[key], value[key], within)
    else:
        into[key].CopyFrom(value[key])


def _with_value(message: Message) -> Iterator[Path]:
    for field, value in message.ListFields():
        if _entry(field) is not None:
            for key in value:
                inner = list(_with_value(value[key])) or [()]
                yield from ((field.name, key, *path) for path in inner)
        elif _is_whole(field) or _has_alternatives(message_type(field)):
            yield (field.name,)
        else:
            yield from ((field.name, *path) for path in _with_value(value))


def _fault(message: Descriptor, path: Path, above: str = "") -> str:
    """What is wrong with a path; empty if it leads to a field."""
    name, rest = path[0], path[1:]
    field = message.fields_by_name.get(name)
    if field is None:
        known = ", ".join(field.name for field in message.fields)
        return f'"{above}{name}": no such field; there are {known}'
    here = f"{above}{name}."
    entry = _entry(field)
    if not rest:
        return ""
    if entry is not None:
        if not rest[0]:
            return f'"{here}": a key is missing'
        return _fault(entry, rest[1:], f"{here}{rest[0]}.") if rest[1:] else ""
    if _is_whole(field):
        return f'"{here}{".".join(rest)}": {name} is changed as a whole'
    return _fault(message_type(field), rest, here)


def _entry(field: FieldDescriptor) -> Descriptor | None:
    """The messages that a map holds; None for what is no map of messages."""
    if not is_map(field):
        return None
    value: Descriptor | None = message_type(field).fields_by_name["value"].message_type
    return value


def _is_whole(field: FieldDescriptor) -> bool:
    """Whether no path goes on beyond this field, which is no map of messages."""
    if field.type != FieldDescriptor.TYPE_MESSAGE or is_repeated(field):
        return True
    return message_type(field).full_name.startswith("google.protobuf.")


def _has_alternatives(message: Descriptor) -> bool:
    """Whether it has a oneof, whose kinds replace each other: a value that is not set in the new
    kind must not stay from the old one."""
    return any(len(oneof.fields) > 1 for oneof in message.oneofs)
