"""Errors as REST shows them: `{"error": {"code", "status", "message", "details"}}`.

`code` is the HTTP status, `status` the name of the gRPC code; `details` are the messages of
google.rpc that gRPC callers get, each with its "@type".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import grpc
from agentmesh.common.v1 import errors_pb2
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from meshkit.errors import MeshError, from_rich_status, http_status, to_rich_status

from agentmesh_gateway.rest.asgi import Headers
from agentmesh_gateway.rest.challenges import challenges
from agentmesh_gateway.rest.codec import JsonObject, encode_message

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def error_body(status: Status, http_code: int) -> JsonObject:
    """The JSON body of an error."""
    return {
        "error": {
            "code": http_code,
            "status": _NAMES.get(status.code, "UNKNOWN"),
            "message": status.message,
            "details": [encode_message(detail) for detail in status.details],
        }
    }


def http_code_of(status: Status) -> int:
    """The HTTP status that says the same as a gRPC status."""
    error = from_rich_status(status)
    return http_status(error.code, error.reason_name)


def error_headers(status: Status) -> Headers:
    """Headers that say more about an error: when to come back, and how to log in."""
    headers: Headers = []
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            seconds = math.ceil(retry.retry_delay.ToNanoseconds() / 1e9)
            headers.append((b"retry-after", str(max(seconds, 1)).encode()))
    return [*headers, *challenges(status)]


def method_not_allowed(path: str, method: str, allowed: Sequence[str]) -> MeshError:
    """What to say to a request whose path exists, but not for its HTTP method."""
    return MeshError(
        grpc.StatusCode.UNIMPLEMENTED,
        errors_pb2.ERROR_REASON_UNIMPLEMENTED,
        f"{path} takes {' and '.join(allowed)}, not {method}",
        metadata={"method": method},
    )


def status_of(error: MeshError) -> Status:
    """The status that travels for an error of this service."""
    return to_rich_status(error)
