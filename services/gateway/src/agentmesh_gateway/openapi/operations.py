"""One method with its HTTP binding as an operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1.event_pb2 import Event
from agentmesh.conversation.v1.stream_pb2 import StreamItem
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from agentmesh_gateway.descriptors import is_repeated, message_type
from agentmesh_gateway.openapi import errors, examples
from agentmesh_gateway.openapi.comments import comment_of
from agentmesh_gateway.openapi.constraints import Schema, is_required
from agentmesh_gateway.openapi.schemas import Schemas, or_null
from agentmesh_gateway.rest.binding import fits_query
from agentmesh_gateway.rest.etags import path_to_etag
from agentmesh_gateway.rest.routes import SIZE_FIELD, Route
from agentmesh_gateway.rest.template import SegmentKind

_DEEPEST_QUERY = 4
_OCTETS = "application/octet-stream"
_BINARY: Schema = {"type": "string", "format": "binary"}
# What a server of REST sets itself.
_SET_BY_THE_EDGE = frozenset({"single_events"})


def operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    """The operation of `route`."""
    policy = route.method.GetOptions().Extensions[options_pb2.policy]
    anybody = policy.audience == options_pb2.AUDIENCE_ANYONE
    found: dict[str, Any] = {
        "operationId": route.method.name,
        "tags": [tag_of(route)],
        **_texts(route, policy),
        "parameters": [*_path_parameters(route, schemas), *_query_parameters(route, schemas)],
        "responses": {"200": _success(route, schemas), **errors.references(public=anybody)},
    }
    found["parameters"] += _header_parameters(route)
    if body := _body(route, schemas):
        found["requestBody"] = body
    if anybody:
        found["security"] = []
        found["responses"]["503"] = _unhealthy(route, schemas)
    return {key: value for key, value in found.items() if value or key == "security"}


def tag_of(route: Route) -> str:
    """The name of the service without what all of them end with."""
    return route.method.containing_service.name.removesuffix("Service")


def _texts(route: Route, policy: options_pb2.MethodPolicy) -> dict[str, str]:
    comment = comment_of(route.method.full_name)
    summary, _, _ = comment.partition(". ")
    texts = {"summary": summary.rstrip("."), "description": comment}
    if policy.required_role:
        role = options_pb2.Role.Name(policy.required_role).removeprefix("ROLE_").lower()
        texts["description"] += f"\n\nNeeds the role `{role}`."
        texts["x-required-role"] = role
    if policy.scope:
        texts["description"] += f" Limited credentials need the scope `{policy.scope}`."
        texts["x-required-scope"] = policy.scope
    return texts


def _path_parameters(route: Route, schemas: Schemas) -> Iterator[dict[str, Any]]:
    for segment in route.template.segments:
        if segment.kind is SegmentKind.LITERAL:
            continue
        field = route.request.fields_by_name[segment.text]
        schema = schemas.field(field, request=True, query=True)
        description = schema.pop("description", "")
        if segment.kind is SegmentKind.REST:
            description = f"{description} It may contain slashes.".strip()
        if field.type == FieldDescriptor.TYPE_STRING:
            schema.setdefault("minLength", 1)
        yield {
            "name": segment.text,
            "in": "path",
            "required": True,
            "description": description,
            "schema": schema,
        }


def _query_parameters(route: Route, schemas: Schemas) -> Iterator[dict[str, Any]]:
    if route.body == "*":
        return
    taken = {*route.template.variables, route.body, *_SET_BY_THE_EDGE}
    if route.announces_size:
        taken.add(SIZE_FIELD)
    for name, field in _query_fields(route.request, _DEEPEST_QUERY):
        if name in taken:
            continue
        schema = schemas.field(field, request=True, query=True)
        description = schema.pop("description", "")
        parameter: dict[str, Any] = {"name": name, "in": "query", "schema": schema}
        if description:
            parameter["description"] = description
        if "." not in name and is_required(field):
            parameter["required"] = True
        yield parameter


def _query_fields(message: Descriptor, depth: int) -> Iterator[tuple[str, FieldDescriptor]]:
    """Every field that a query can name, with its dotted name."""
    for field in message.fields:
        if fits_query(field):
            yield field.name, field
        elif depth and field.type == FieldDescriptor.TYPE_MESSAGE and not is_repeated(field):
            for name, inner in _query_fields(message_type(field), depth - 1):
                yield f"{field.name}.{name}", inner


def _header_parameters(route: Route) -> Iterator[dict[str, Any]]:
    names = route.request.fields_by_name
    if "request_id" in names:
        yield {"$ref": "#/components/parameters/Idempotency-Key"}
    if "etag" in names:
        yield {"$ref": "#/components/parameters/If-Match"}
    if route.server_streaming and "resume_token" in names:
        yield {"$ref": "#/components/parameters/Last-Event-ID"}


def _body(route: Route, schemas: Schemas) -> dict[str, Any]:
    if route.is_upload:
        media_types = [_OCTETS] if route.announces_size else ["application/jsonl", _OCTETS]
        content = {media_type: {"schema": _BINARY} for media_type in media_types}
        return {"required": True, "content": content}
    if not route.body:
        return {}
    if route.body == "*":
        path = set(route.template.variables)
        schema = schemas.message(route.request, request=True, without=path)
        if not path:
            schema = schemas.reference(route.request, request=True)
        required = any(is_required(f) for f in route.request.fields if f.name not in path)
    else:
        field = route.request.fields_by_name[route.body]
        schema = schemas.field(field, request=True)
        required = is_required(field)
    if route.body == "*" and not required:
        schema = or_null(schema)
    media: dict[str, Any] = {"schema": schema}
    if example := examples.REQUESTS.get(route.method.name):
        media["example"] = example
    return {"required": required, "content": {"application/json": media}}


def _success(route: Route, schemas: Schemas) -> dict[str, Any]:
    content: dict[str, Any]
    if is_download(route):
        content = {"*/*" if "media_type" in route.request.fields_by_name else _OCTETS: _BINARY}
        content = {media_type: {"schema": schema} for media_type, schema in content.items()}
    elif route.server_streaming:
        content = {"text/event-stream": _events(route, schemas)}
    else:
        media: dict[str, Any] = {"schema": schemas.reference(route.response, request=False)}
        if example := examples.RESPONSES.get(route.method.name):
            media["example"] = example
        content = {"application/json": media}
    names = ["X-Request-Id", *(["ETag"] if path_to_etag(route.response) is not None else [])]
    return {
        "description": comment_of(route.response.full_name) or "Done.",
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": content,
    }


def is_download(route: Route) -> bool:
    """Whether the responses are the pieces of a file."""
    types = [field.type for field in route.response.fields]
    return route.server_streaming and types == [FieldDescriptor.TYPE_BYTES]


def _unhealthy(route: Route, schemas: Schemas) -> dict[str, Any]:
    """Health is answered in the same words whether it is good or not."""
    schema = schemas.reference(route.response, request=False)
    schema = {"anyOf": [schema, {"$ref": "#/components/schemas/Error"}]}
    return {
        "description": "What it is about cannot work now.",
        "content": {"application/json": {"schema": schema}},
    }


def _events(route: Route, schemas: Schemas) -> dict[str, Any]:
    """A stream of server-sent events: the schema is that of one of them."""
    item = route.response.fields_by_name.get("item")
    message = route.response if item is None else message_type(item)
    if message.full_name == StreamItem.DESCRIPTOR.full_name:
        kinds = dict.fromkeys(_kinds(Event.DESCRIPTOR), Event.DESCRIPTOR)
        kinds |= {
            field.name: message_type(field)
            for field in message.fields
            if field.type == FieldDescriptor.TYPE_MESSAGE and field.name != "events"
        }
    else:
        kinds = dict.fromkeys(_kinds(message), message) or {"item": message}
    data = {kind: schemas.reference(inner, request=False) for kind, inner in kinds.items()}
    data["error"] = {"$ref": "#/components/schemas/Error"}
    return {"schema": _event(list(data)), "x-events": data}


def _event(kinds: list[str]) -> Schema:
    said = "One JSON document on one line; `x-events` has its schema for each kind."
    return {
        "type": "object",
        "description": "One event of the stream. The event `error` ends a stream that failed.",
        "properties": {
            "id": {"type": "string", "description": "Where to resume."},
            "event": {"type": "string", "enum": kinds, "description": "The kind."},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "description": said,
            },
            "retry": {"type": "integer", "description": "Milliseconds before coming back."},
        },
        "required": ["event", "data"],
    }


def _kinds(message: Descriptor) -> list[str]:
    return [field.name for oneof in message.oneofs for field in oneof.fields]
