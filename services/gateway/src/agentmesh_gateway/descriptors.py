"""Questions about field descriptors that protobuf answers differently from version to version."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether `field` is a list or a map."""
    # protobuf 7 has `is_repeated` and no `label`; protobuf 5 has `label` alone.
    either: Any = field
    known = getattr(either, "is_repeated", None)
    return bool(either.label == either.LABEL_REPEATED if known is None else known)


def message_type(field: FieldDescriptor) -> Descriptor:
    """The message type of a `field` that holds messages."""
    found = field.message_type
    if found is None:
        raise TypeError(f"{field.full_name} holds no message")
    return found


def is_map(field: FieldDescriptor) -> bool:
    """Whether `field` is a map."""
    return (
        field.type == FieldDescriptor.TYPE_MESSAGE
        and is_repeated(field)
        and bool(message_type(field).GetOptions().map_entry)
    )
