"""Messages as JSON for programs: snake_case names, short lower-case enum values."""

import base64
import json
import re
from collections.abc import Mapping, Sequence

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from agentmesh_cli.rendering.words import FieldDescriptor, enum_word

# JSON escapes C0 itself; these would reach the terminal.
_C1_AND_DELETE = re.compile("[\x7f-\x9f]")


def to_json(message: Message) -> object:
    """The message in the JSON types of Python, as the REST interface shows it.

    64-bit integers are numbers; fields that are unset messages are left out, others never.
    """
    if message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        return MessageToDict(message)
    shown: dict[str, object] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if isinstance(value, Message):  # first: some messages behave as mappings, too
            shown[field.name] = to_json(value)
        elif isinstance(value, Mapping):
            shown[field.name] = _map(field, value)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            shown[field.name] = [_single(field, item) for item in value]
        else:
            shown[field.name] = _single(field, value)
    return shown


def dump(value: object) -> str:
    """JSON text that is safe on a terminal: control characters are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _C1_AND_DELETE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _map(field: FieldDescriptor, value: Mapping[object, object]) -> dict[str, object]:
    entry = field.message_type
    if entry is None:
        raise TypeError(f"{field.full_name} is no map")
    item = entry.fields_by_name["value"]
    return {str(key): _single(item, value[key]) for key in value}


def _single(field: FieldDescriptor, value: object) -> object:
    if isinstance(value, Message):
        return to_json(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if field.enum_type is not None and isinstance(value, int):
        return enum_word(field.enum_type, value)
    return value
