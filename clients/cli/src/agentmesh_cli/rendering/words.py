"""Names of enum values as users know them: short and lower-case."""

import re
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf import descriptor
from google.protobuf.message import Message

if TYPE_CHECKING:
    from google._upb import _message

# The stubs tell the descriptors of the C implementation apart from those of the Python one.
EnumDescriptor: TypeAlias = "descriptor.EnumDescriptor | _message.EnumDescriptor"
FieldDescriptor: TypeAlias = "descriptor.FieldDescriptor | _message.FieldDescriptor"

_WORD_START = re.compile(r"(?<!^)(?=[A-Z])")


def word(message: Message, field: str) -> str:
    """The value of an enum field, for example "running" for CONVERSATION_STATUS_RUNNING."""
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    if enum is None:
        raise TypeError(f"{message.DESCRIPTOR.full_name}.{field} is no enum")
    return enum_word(enum, getattr(message, field))


def enum_word(enum: EnumDescriptor, number: int) -> str:
    """The short name of one value; its number if this version does not know it."""
    value = enum.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = _WORD_START.sub("_", enum.name).upper() + "_"
    return value.name.removeprefix(prefix).lower()
