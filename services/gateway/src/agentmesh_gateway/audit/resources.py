"""What a request is about, as a kind and an id: never more of what it says."""

from __future__ import annotations

import functools
import hashlib
import re

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_ID = "_id"
_NOT_RESOURCES = frozenset({"request_id", "trace_id", "client_id"})
# What is no id of ours stays out: people paste anything anywhere.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_UNREADABLE = "?"


def resource_of(request: Message | None) -> str:
    """For example "conversation:conv_…"; "" if the request names nothing that is there already."""
    if request is None:
        return ""
    for name, kind in _candidates(request.DESCRIPTOR):
        value = getattr(request, name)
        if isinstance(value, str) and value:
            return f"{kind}:{value if _PLAIN.fullmatch(value) else _UNREADABLE}"
    return ""


def request_id_of(request: Message | None) -> str:
    """The id that the caller chose for it, as far as it is plain; "" without one."""
    value = getattr(request, "request_id", "")
    if not value:
        return ""
    return str(value) if _PLAIN.fullmatch(value) else _UNREADABLE


def request_digest(request: Message | None) -> str:
    """What tells two requests under one `request_id` apart; "" without an id."""
    if request is None or not getattr(request, "request_id", ""):
        return ""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


@functools.cache
def _candidates(descriptor: Descriptor) -> tuple[tuple[str, str], ...]:
    names = [
        field.name
        for field in descriptor.fields
        if field.type == FieldDescriptor.TYPE_STRING
        and (field.name.endswith(_ID) or field.name == "digest")
        and field.name not in _NOT_RESOURCES
    ]
    return tuple((name, "blob" if name == "digest" else name.removesuffix(_ID)) for name in names)
