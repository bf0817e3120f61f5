"""The whole document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from agentmesh_gateway.openapi import errors
from agentmesh_gateway.openapi.comments import comment_of
from agentmesh_gateway.openapi.operations import operation
from agentmesh_gateway.openapi.schemas import Schemas
from agentmesh_gateway.rest.routes import Route

_ABOUT = """Multi-agent conversations as a mesh of services.

The same API is there over gRPC; this form of it is made of the same contracts. Fields may be left
out unless they are required; unknown ones are refused. Enums are read in any case, 64-bit integers
as numbers or strings. `X-Request-Id` comes back. A call that sends a `traceparent` gets a trace of
its own, linked to that one and named in the header `traceresponse`, unless it comes from a peer
that the gateway trusts with traces: there it is continued.
"""
_SECURITY: dict[str, Any] = {
    "api_key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "An API key, `amk_…`.",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a token of an identity provider that the gateway knows.",
    },
}
_PARAMETERS: dict[str, Any] = {
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "maxLength": 128},
        "description": "Stands for `request_id`: repeating the call within 24 h does nothing more.",
    },
    "If-Match": {
        "name": "If-Match",
        "in": "header",
        "schema": {"type": "string"},
        "description": "Stands for `etag`, in quotes: only if the thing is still as it was read.",
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "schema": {"type": "string"},
        "description": "Resumes a stream behind the event of this `id`, over what the query says.",
    },
}
_HEADERS: dict[str, Any] = {
    "X-Request-Id": {
        "schema": {"type": "string"},
        "description": "The request's own X-Request-Id, or one made for it; the logs have it.",
    },
    "ETag": {
        "schema": {"type": "string"},
        "description": "The `etag` of what is in the body, for If-Match.",
    },
    "Retry-After": {"schema": {"type": "integer"}, "description": "In how many seconds to retry."},
    "WWW-Authenticate": {
        "schema": {"type": "string"},
        "description": "How to log in, and what was wrong with a bearer token (RFC 6750). With 403 "
        "only if another scope is needed.",
    },
}


def openapi_document(
    routes: Sequence[Route], services: Iterable[ServiceDescriptor], version: str
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `routes`."""
    schemas = Schemas((route.request for route in routes), (route.response for route in routes))
    responses = errors.error_responses(schemas)
    paths: dict[str, Any] = {}
    bindings: Counter[str] = Counter()
    for route in routes:
        found = operation(route, schemas)
        bindings[route.rpc] += 1
        if bindings[route.rpc] > 1:
            found["operationId"] += str(bindings[route.rpc])
        paths.setdefault(openapi_path(route), {})[route.http_method.lower()] = found
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentmesh", "version": version, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{name: []} for name in _SECURITY],
        "tags": [
            {
                "name": service.name.removesuffix("Service"),
                "description": comment_of(service.full_name),
            }
            for service in services
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": responses,
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "securitySchemes": _SECURITY,
        },
    }


def openapi_path(route: Route) -> str:
    """The route's path; a variable of several segments looks like any other."""
    return route.template.text.replace("=**}", "}").replace("=*}", "}")
