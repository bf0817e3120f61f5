"""Entity tags: the `etag` of the contract, in the headers that HTTP has for it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from agentmesh_gateway.descriptors import is_repeated
from agentmesh_gateway.rest.asgi import Headers
from agentmesh_gateway.rest.problems import Problems

IF_MATCH = b"if-match"
_TAG = re.compile(r'(W/)?"(?P<tag>[\x21\x23-\x7e]+)"')
_FIELD = "etag"


def etag_headers(response: Message) -> Headers:
    """ETag, if the response is a thing that has one, or holds just one such thing."""
    descriptor: Any = response.DESCRIPTOR
    path = path_to_etag(descriptor)
    if path is None:
        return []
    holder: Any = response
    for name in path:
        holder = getattr(holder, name)
    tag = f'"{holder.etag}"'
    return [(b"etag", tag.encode())] if _TAG.fullmatch(tag) else []


@cache
def path_to_etag(descriptor: Descriptor) -> tuple[str, ...] | None:
    """Through which fields of a response its etag is reached; None if it has none, or several."""
    if _FIELD in descriptor.fields_by_name:
        return ()
    holders = [
        field.name
        for field in descriptor.fields
        if field.type == FieldDescriptor.TYPE_MESSAGE
        and not is_repeated(field)
        and field.message_type is not None
        and _FIELD in field.message_type.fields_by_name
    ]
    return (holders[0],) if len(holders) == 1 else None


def take_if_match(headers: dict[bytes, bytes], request: Message, problems: Problems) -> None:
    """Uses If-Match as the request's `etag`; naming two different ones is refused. "*" asks for
    nothing that the method does not ask for anyway."""
    if IF_MATCH not in headers:
        return
    value = headers[IF_MATCH].decode("latin-1").strip()
    names: Any = request.DESCRIPTOR.fields_by_name
    if value in ("", "*") or _FIELD not in names:
        return
    match = _TAG.fullmatch(value)
    if match is None:
        problems.add("If-Match", 'must be one entity tag in quotes, such as "v4"')
        return
    given: str = getattr(request, _FIELD)
    if given and given != match["tag"]:
        problems.add(_FIELD, "differs from the If-Match header")
        return
    setattr(request, _FIELD, match["tag"])
