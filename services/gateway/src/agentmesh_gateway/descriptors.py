"""Questions about field descriptors that protobuf answers differently from version to version."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from meshkit.descriptors import is_repeated

__all__ = ["is_map", "is_repeated", "message_type"]


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
