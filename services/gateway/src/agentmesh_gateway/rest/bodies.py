"""The body of a request as a JSON document, or why it is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError

from agentmesh_gateway.rest.codec import MalformedJsonError, parse_json


class UnsupportedMediaTypeError(MeshError):
    """A body of another type than the method takes, or in an encoding."""

    def __init__(self, message: str) -> None:
        super().__init__(
            grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_REASON_MALFORMED_BODY, message
        )


def require_plain(headers: Mapping[bytes, bytes]) -> None:
    """Raises UnsupportedMediaTypeError for a compressed body: nobody can say beforehand how large
    it gets, and the limits are about what is sent."""
    if b"content-encoding" not in headers:
        return
    coding = headers[b"content-encoding"].decode("latin-1").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMediaTypeError(f"bodies are taken as they are, not as {coding[:50]}")


def parse_body(content_type: bytes, body: bytes) -> Any:
    """The document of a body that is not empty."""
    media_type, _, parameters = content_type.decode("latin-1").lower().partition(";")
    media_type = media_type.strip()
    if media_type != "application/json" and not media_type.endswith("+json"):
        said = f"not {media_type}" if media_type else "and the request names none"
        raise UnsupportedMediaTypeError(f"the content type must be application/json, {said}")
    charset = parameters.partition("charset=")[2].strip().strip('"')
    if charset not in ("", "utf-8", "utf8"):
        raise MeshError.malformed(f"the body must be UTF-8, not {charset}")
    try:
        return parse_json(body)
    except MalformedJsonError as error:
        raise MeshError.malformed(f"the body {error}") from None
