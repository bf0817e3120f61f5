"""Errors as responses: one for each HTTP status, with the reasons that come with it."""

from __future__ import annotations

from typing import Any

import grpc
from agentmesh.common.v1 import errors_pb2
from google.protobuf.descriptor import Descriptor
from google.rpc import error_details_pb2
from meshkit.errors import http_status, reason_name

from agentmesh_gateway.openapi.comments import comment_of
from agentmesh_gateway.openapi.constraints import Schema
from agentmesh_gateway.openapi.schemas import Schemas

_DETAILS: tuple[Descriptor, ...] = (
    error_details_pb2.BadRequest.DESCRIPTOR,
    error_details_pb2.RetryInfo.DESCRIPTOR,
    error_details_pb2.ResourceInfo.DESCRIPTOR,
    error_details_pb2.QuotaFailure.DESCRIPTOR,
)
_STATUSES = {
    400: "The request breaks the rules of the contract, or does not fit the state of things.",
    401: "No credentials that are good.",
    403: "The credentials do not allow it.",
    404: "There is no such thing, or it belongs to somebody else.",
    409: "It exists already, or was changed in the meantime.",
    413: "The body is larger than the gateway takes.",
    415: "The body is of a type, or in an encoding, that the method does not take.",
    429: "Too much; come back later.",
    431: "The path and the headers are longer than the gateway takes.",
    500: "A defect of the mesh.",
    501: "This version does not serve it.",
    503: "What it takes cannot be reached now; come back later.",
    504: "It took longer than it may.",
}
WITHOUT_CREDENTIALS = frozenset(_STATUSES) - {401, 403}
"""What a method that anybody may call can answer."""
_WITH_RETRY_AFTER = (429, 503)
_WITH_CHALLENGE = (401, 403)
_ENUM = errors_pb2.ErrorReason.DESCRIPTOR


def error_responses(schemas: Schemas) -> dict[str, Any]:
    """The response of each HTTP status by its name in `components`."""
    schemas.components["Error"] = _error(schemas)
    return {_name(status): _response(status, text) for status, text in _STATUSES.items()}


def references(*, public: bool) -> dict[str, Any]:
    """The errors of a method: by status, a reference to its response."""
    statuses = WITHOUT_CREDENTIALS if public else frozenset(_STATUSES)
    return {
        str(status): {"$ref": f"#/components/responses/{_name(status)}"}
        for status in sorted(statuses)
    }


def _name(status: int) -> str:
    return f"Error{status}"


def _response(status: int, text: str) -> dict[str, Any]:
    reasons = [
        f"- `{reason_name(number)}`: {comment}" for number, comment in _reasons().get(status, ())
    ]
    headers: dict[str, Any] = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    if status in _WITH_RETRY_AFTER:
        headers["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    if status in _WITH_CHALLENGE:
        headers["WWW-Authenticate"] = {"$ref": "#/components/headers/WWW-Authenticate"}
    return {
        "description": "\n".join([text, "", *reasons] if reasons else [text]),
        "headers": headers,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def _reasons() -> dict[int, list[tuple[errors_pb2.ErrorReason.ValueType, str]]]:
    """By HTTP status. The comment of a reason begins with its gRPC code."""
    found: dict[int, list[tuple[errors_pb2.ErrorReason.ValueType, str]]] = {}
    for value in _ENUM.values:
        comment = comment_of(f"{_ENUM.full_name}.{value.name}")
        code, _, rest = comment.partition(". ")
        if code in grpc.StatusCode.__members__:
            number = errors_pb2.ErrorReason.ValueType(value.number)
            status = http_status(grpc.StatusCode[code], reason_name(number))
            found.setdefault(status, []).append((number, rest))
    return found


def _error(schemas: Schemas) -> Schema:
    details = [_error_info(), *(_detail(schemas, message) for message in _DETAILS)]
    fields: Schema = {
        "code": {"type": "integer", "description": "The HTTP status."},
        "status": {
            "type": "string",
            "enum": [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK],
            "description": "The gRPC status.",
        },
        "message": {"type": "string", "description": "What is wrong, in a sentence."},
        "details": {
            "type": "array",
            "items": {"anyOf": details},
            "description": "What programs act on; an ErrorInfo always, the others where they fit.",
        },
    }
    error: Schema = {"type": "object", "properties": fields, "required": list(fields)}
    return {
        "type": "object",
        "description": "The body of every failed request.",
        "properties": {"error": error},
        "required": ["error"],
    }


def _error_info() -> Schema:
    reasons = [
        reason_name(errors_pb2.ErrorReason.ValueType(value.number))
        for value in _ENUM.values
        if value.number
    ]
    properties: Schema = {
        "@type": _type_of(error_details_pb2.ErrorInfo.DESCRIPTOR),
        "reason": {"type": "string", "enum": reasons, "description": comment_of(_ENUM.full_name)},
        "domain": {"type": "string"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    return {
        "type": "object",
        "title": "ErrorInfo",
        "properties": properties,
        "required": list(properties),
    }


def _detail(schemas: Schemas, message: Descriptor) -> Schema:
    schema = schemas.message(message, request=False)
    properties = {"@type": _type_of(message), **schema["properties"]}
    required = ["@type", *schema.get("required", ())]
    return {
        "type": "object",
        "title": message.name,
        "properties": properties,
        "required": required,
    }


def _type_of(message: Descriptor) -> Schema:
    return {"const": f"type.googleapis.com/{message.full_name}"}
