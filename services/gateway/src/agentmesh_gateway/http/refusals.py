"""What the HTTP server says itself, before there is a request that an application could answer."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import grpc
import orjson
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError, to_rich_status
from meshkit.ids import new_id

from agentmesh_gateway.http.security_headers import SECURITY_HEADERS
from agentmesh_gateway.rest.errors import error_body, error_headers
from agentmesh_gateway.rest.request_headers import REQUEST_ID
from agentmesh_gateway.rest.responder import JSON

_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP status, and the error that its body shows."""

    code: HTTPStatus
    error: MeshError

    def response(self) -> bytes:
        """The whole answer of a connection that is closed after it."""
        status = to_rich_status(self.error)
        body = orjson.dumps(error_body(status, int(self.code)))
        headers = [
            (b"content-type", JSON),
            (b"content-length", str(len(body)).encode()),
            (REQUEST_ID, new_id("req").encode()),
            *error_headers(status),
            *SECURITY_HEADERS,
            (b"connection", b"close"),
        ]
        head = [f"HTTP/1.1 {int(self.code)} {self.code.phrase}".encode()]
        head += [name + b": " + value for name, value in headers]
        return b"\r\n".join([*head, b"", body])


def no_http(detail: str) -> Refusal:
    """`detail` says what the parser stumbled over; "" if it does not say."""
    said = f"this is no valid HTTP request: {detail}" if detail else "this is no valid HTTP request"
    return Refusal(
        HTTPStatus.BAD_REQUEST,
        MeshError.malformed(f"{said}; send HTTP/1.1, and https:// only where TLS is on"),
    )


def too_long_a_head(limit_bytes: int) -> Refusal:
    """Path, query and headers exceed the limit."""
    error = MeshError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE,
        f"the head of the request exceeds {limit_bytes} bytes: "
        "send a shorter query, and fewer or shorter headers",
        metadata={"limit_bytes": str(limit_bytes)},
    )
    return Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, error)


def too_slow(message: str) -> Refusal:
    """The request did not come in the time that it may take."""
    error = MeshError(
        grpc.StatusCode.DEADLINE_EXCEEDED, errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED, message
    )
    return Refusal(HTTPStatus.REQUEST_TIMEOUT, error)


def too_many(message: str) -> Refusal:
    """Connections, here or of one address."""
    error = MeshError(
        grpc.StatusCode.UNAVAILABLE,
        errors_pb2.ERROR_REASON_REPLICA_OVERLOADED,
        f"{message}: close some, or come back later",
        retry_after=_RETRY_SECONDS,
    )
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, error)
