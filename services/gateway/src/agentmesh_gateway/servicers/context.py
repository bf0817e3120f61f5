"""What servicers ask of a call's context."""

from __future__ import annotations

from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

Context = grpc.aio.ServicerContext[Any, Any]

HTTP_STATUS_KEY = "x-http-code"
"""Trailing metadata by which a successful call asks for another HTTP status than 200."""

_Recast = TypeVar("_Recast", bound=Message)


def set_http_status(context: Context, status: int) -> None:
    """Lets the REST edge answer with `status`; gRPC callers see the response alone."""
    context.set_trailing_metadata(((HTTP_STATUS_KEY, str(status)),))


def recast(message: Message, to: type[_Recast]) -> _Recast:
    """`message` as the message type of another package that has the same fields and numbers."""
    return to.FromString(message.SerializeToString())
