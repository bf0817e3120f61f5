"""Initial metadata of a local call as headers of the HTTP response that is made of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar

from agentmesh_gateway.rest.asgi import Headers

_headers: ContextVar[Headers | None] = ContextVar("agentmesh_announced_headers", default=None)


def announce_in(headers: Headers) -> None:
    """What calls of the running task announce from now on is added to `headers`."""
    _headers.set(headers)


def announce(metadata: Iterable[tuple[str, str]]) -> None:
    """Adds `metadata` to the headers of the response, unless nobody expects any."""
    headers = _headers.get()
    if headers is not None:
        headers += ((name.encode(), value.encode()) for name, value in metadata)
