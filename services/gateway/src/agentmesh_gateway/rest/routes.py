"""Which method an HTTP request means: a table made of the contracts' `google.api.http` options.

Literal segments win over parameters, and parameters over `**`, however the methods are ordered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf import message_factory
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message

from agentmesh_gateway.rest.template import PathTemplate, SegmentKind, parse_template

SIZE_FIELD = "size_bytes"
"""Of an upload's first request: the Content-Length."""


@dataclass(frozen=True)
class Route:
    """One HTTP binding of one method."""

    http_method: str
    template: PathTemplate
    body: str
    """"*" for the whole request, a field's name, or "" for none."""
    method: MethodDescriptor
    request_type: type[Message]
    server_streaming: bool

    @cached_property
    def is_upload(self) -> bool:
        """Whether the body is a file that becomes a stream of requests."""
        return bool(self.method.client_streaming)

    @cached_property
    def announces_size(self) -> bool:
        """Whether the first request of an upload says how many bytes come."""
        return self.is_upload and SIZE_FIELD in self.request.fields_by_name

    @cached_property
    def rpc(self) -> str:
        """For example "/agentmesh.gateway.v1.ToolService/ListTools"."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @cached_property
    def request(self) -> Descriptor:
        """The request message."""
        return self.method.input_type

    @cached_property
    def response(self) -> Descriptor:
        """The response message; of one item, if the method streams."""
        return self.method.output_type


@dataclass(frozen=True, slots=True)
class Match:
    """A route and the raw (still percent-encoded) values of its path variables."""

    route: Route
    path_values: dict[str, str]


@dataclass
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    one: _Node | None = None
    rest: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)

    def child(self, kind: SegmentKind, text: str) -> _Node:
        if kind is SegmentKind.LITERAL:
            return self.literals.setdefault(text, _Node())
        if kind is SegmentKind.ONE:
            self.one = self.one or _Node()
            return self.one
        self.rest = self.rest or _Node()
        return self.rest


class RouteTable:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: tuple[Route, ...] = tuple(routes)
        self._root = _Node()
        for route in self.routes:
            self._insert(route)

    def _insert(self, route: Route) -> None:
        node = self._root
        for segment in route.template.segments:
            node = node.child(segment.kind, segment.text)
        taken = node.routes.setdefault(route.http_method, route)
        if taken is not route:
            raise ValueError(
                f"{route.rpc} and {taken.rpc} both want {route.http_method} {route.template.text}"
            )

    def match(self, http_method: str, raw_path: str) -> Match | None:
        """The route of a request, or None. `raw_path` is percent-encoded, without its query."""
        node, values = self._find(raw_path)
        route = node.routes.get("GET" if http_method == "HEAD" else http_method)
        if route is None or (http_method == "HEAD" and route.server_streaming):
            return None
        return Match(route, dict(zip(route.template.variables, values, strict=True)))

    def allowed(self, raw_path: str) -> tuple[str, ...]:
        """The HTTP methods that the path serves; none if there is no such path."""
        routes = self._find(raw_path)[0].routes
        read = routes.get("GET")
        head = () if read is None or read.server_streaming else ("HEAD",)
        return tuple(sorted([*routes, *head]))

    def _find(self, raw_path: str) -> tuple[_Node, tuple[str, ...]]:
        """The template that fits best, whatever the method: what stands literally in a template is
        never the id of something."""
        if raw_path.startswith("/"):
            for node, values in _descend(self._root, raw_path[1:].split("/"), ()):
                if node.routes:
                    return node, values
        return _Node(), ()


def _descend(
    node: _Node, segments: list[str], values: tuple[str, ...]
) -> Iterator[tuple[_Node, tuple[str, ...]]]:
    if not segments:
        yield node, values
        return
    head, tail = segments[0], segments[1:]
    literal = node.literals.get(head)
    if literal is not None:
        yield from _descend(literal, tail, values)
    if node.one is not None and head:
        yield from _descend(node.one, tail, (*values, head))
    if node.rest is not None and any(segments):
        yield node.rest, (*values, "/".join(segments))


def routes_of(services: Iterable[ServiceDescriptor]) -> list[Route]:
    """Every HTTP binding of every method of `services`."""
    return [
        _route(method, rule)
        for service in services
        for method in service.methods
        for rule in _rules(method)
    ]


def _rules(method: MethodDescriptor) -> list[HttpRule]:
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return []
    rule = options.Extensions[annotations_pb2.http]
    return [rule, *rule.additional_bindings]


def _route(method: MethodDescriptor, rule: HttpRule) -> Route:
    pattern = rule.WhichOneof("pattern")
    unserved = pattern is None or pattern == "custom" or rule.response_body
    if unserved or (method.client_streaming and not _is_upload(method, rule)):
        raise ValueError(f"{method.full_name} has an HTTP binding that this edge does not serve")
    template = parse_template(getattr(rule, pattern))
    request_type = message_factory.GetMessageClass(method.input_type)
    return Route(
        pattern.upper(), template, rule.body, method, request_type, method.server_streaming
    )


def _is_upload(method: MethodDescriptor, rule: HttpRule) -> bool:
    """Whether the body is a file: requests are pieces of it, in a field of bytes."""
    body = method.input_type.fields_by_name.get(rule.body)
    is_bytes = body is not None and body.type == FieldDescriptor.TYPE_BYTES
    return is_bytes and not method.server_streaming
