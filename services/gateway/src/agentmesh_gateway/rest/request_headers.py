"""HTTP request headers that mean something to the mesh."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.message import Message
from meshkit.errors import MeshError

from agentmesh_gateway.identity.credentials import PROXY_HEADERS
from agentmesh_gateway.local_calls import Metadata
from agentmesh_gateway.rest.asgi import Headers
from agentmesh_gateway.rest.etags import IF_MATCH
from agentmesh_gateway.rest.problems import Problems

REQUEST_ID = b"x-request-id"
TRACEPARENT = b"traceparent"
# Nothing else passes: a client must not speak for another service of the mesh.
_OF_CLIENTS = (b"authorization", b"x-api-key", TRACEPARENT, b"tracestate")
_FORWARDED = {
    name: name.decode()
    for name in (*_OF_CLIENTS, *(name.encode() for name in sorted(PROXY_HEADERS)))
}
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LAST_EVENT_ID = b"last-event-id"
_IDEMPOTENCY_KEY = b"idempotency-key"
_DECIDING = frozenset(
    (
        *(b"authorization", b"x-api-key", b"host", b"content-type", b"content-encoding"),
        *(_LAST_EVENT_ID, _IDEMPOTENCY_KEY, IF_MATCH),
        *(name.encode() for name in PROXY_HEADERS),
    )
)
_LARGEST_SEQUENCE = 2**63 - 1
READ_HEADERS = sorted(
    name.decode()
    for name in (
        *(*_OF_CLIENTS, REQUEST_ID, _LAST_EVENT_ID, _IDEMPOTENCY_KEY, IF_MATCH, b"content-type"),
    )
)
"""Every request header that the edge reads, for CORS."""


def call_metadata(headers: dict[bytes, bytes]) -> Metadata:
    """The metadata of the call that a request becomes."""
    return tuple(
        [
            (text, headers[name].decode("latin-1"))
            for name, text in _FORWARDED.items()
            if name in headers
        ]
    )


def require_single(headers: Headers) -> None:
    """Raises MeshError if a header that decides something comes twice with two values: what stands
    before the gateway may have judged by the other one."""
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _DECIDING and seen.setdefault(name, value) != value:
            raise MeshError.malformed(f"the header {name.decode()} is given twice")


def request_id_of(headers: dict[bytes, bytes]) -> str:
    """The client's X-Request-Id, if it is one that can be echoed."""
    value = headers.get(REQUEST_ID, b"")
    return value.decode() if _REQUEST_ID.fullmatch(value) else ""


def take_last_event_id(headers: dict[bytes, bytes], request: Any, problems: Problems) -> None:
    """Resumes a stream where Last-Event-ID says, over what the query says.

    A browser that reconnects sends the same query again, so that the header is what is new.
    """
    if _LAST_EVENT_ID not in headers:
        return
    value = headers[_LAST_EVENT_ID].decode("latin-1").strip()
    names = request.DESCRIPTOR.fields_by_name
    if not value or "resume_token" not in names:
        return
    if "after_sequence" in names and value.isascii() and value.isdigit():
        value = value.lstrip("0") or "0"
        if int(value[:20]) > _LARGEST_SEQUENCE:
            problems.add("Last-Event-ID", "is no id of an event of this stream")
            return
        request.ClearField("resume_token")
        request.after_sequence = int(value)
    else:
        request.resume_token = value


def take_idempotency_key(headers: dict[bytes, bytes], request: Message, problems: Problems) -> None:
    """Uses Idempotency-Key as the request's `request_id`; naming two different ones is refused."""
    if _IDEMPOTENCY_KEY not in headers:
        return
    value = headers[_IDEMPOTENCY_KEY].decode("latin-1").strip()
    names: Any = request.DESCRIPTOR.fields_by_name
    if not value or "request_id" not in names:
        return
    given: str = getattr(request, "request_id")  # noqa: B009  the field was just looked up
    if given and given != value:
        problems.add("request_id", "differs from the Idempotency-Key header")
        return
    setattr(request, "request_id", value)  # noqa: B010  the field was just looked up
