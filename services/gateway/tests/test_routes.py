"""The route table: made of the contracts alone, with literals before parameters."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from agentmesh_gateway.rest.binding import bind
from agentmesh_gateway.rest.routes import RouteTable, routes_of
from agentmesh_gateway.rest.template import parse_template
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

TABLE = RouteTable(routes_of(PUBLIC_SERVICES))
# Streams of both ways are no HTTP request: Converse is a WebSocket.
METHODS = [
    method
    for service in PUBLIC_SERVICES
    for method in service.methods
    if not (method.client_streaming and method.server_streaming)
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_annotated_method_is_reached_by_its_path(method: MethodDescriptor) -> None:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    template = parse_template(getattr(rule, rule.WhichOneof("pattern")))
    path = "".join(
        f"/{segment.text}" if not segment.kind else f"/value-of-{segment.text}"
        for segment in template.segments
    )
    match = TABLE.match(rule.WhichOneof("pattern").upper(), path)
    assert match is not None
    assert match.route.method.full_name == method.full_name
    assert match.path_values == {name: f"value-of-{name}" for name in template.variables}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/conversations/health", "CheckConversationsHealth"),
        ("/conversations/stream", "SubscribeTenant"),
        ("/conversations/conv_1", "GetConversation"),
        ("/agents/health", "CheckAgentsHealth"),
        ("/agents/healthy", "GetAgent"),
        ("/conversations/conv_1/artifacts/src/a/b.py", "DownloadArtifact"),
        ("/conversations/conv_1/artifacts", "ListArtifacts"),
    ],
)
def test_literals_win_over_parameters(path: str, name: str) -> None:
    match = TABLE.match("GET", path)
    assert match is not None
    assert match.route.method.name == name


@pytest.mark.parametrize(
    "path",
    ["/", "", "/nothing", "/conversations/", "/conversations//", "/agents/a/b/c", "//agents"],
)
def test_unknown_paths_match_nothing(path: str) -> None:
    assert TABLE.match("GET", path) is None
    assert TABLE.allowed(path) == ()


def test_a_wrong_method_is_told_from_an_unknown_path() -> None:
    assert TABLE.match("PUT", "/conversations/conv_1") is None
    assert TABLE.allowed("/conversations/conv_1") == ("DELETE", "GET", "HEAD", "PATCH")
    assert TABLE.match("HEAD", "/conversations/conv_1") is not None
    assert TABLE.match("HEAD", "/conversations/conv_1/stream") is None
    assert TABLE.allowed("/conversations/conv_1/stream") == ("GET",)


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH"])
def test_a_literal_path_is_never_an_id(method: str) -> None:
    assert TABLE.match(method, "/conversations/start") is None
    assert TABLE.allowed("/conversations/start") == ("POST",)


def _bind(method: str, path: str, query: str = "", body: object = None) -> tuple[Any, list[str]]:
    match = TABLE.match(method, path)
    assert match is not None
    message, problems = bind(match, query, body)
    return message, [problem.field for problem in problems.found]


def test_path_query_and_body_are_bound() -> None:
    message, wrong = _bind(
        "GET",
        "/conversations/conv_1/stream",
        "after_sequence=7&until=run_end&filter.kinds=message&filter.kinds=handoff"
        "&filter.without_deltas=true",
    )
    assert not wrong
    assert message.conversation_id == "conv_1"
    assert (message.after_sequence, message.until) == (7, 3)
    assert list(message.filter.kinds) == ["message", "handoff"]
    assert message.filter.without_deltas

    message, wrong = _bind("POST", "/conversations/conv%2F1/message", "", {"content": "hi"})
    assert not wrong
    assert (message.conversation_id, message.content) == ("conv/1", "hi")

    message, wrong = _bind(
        "GET", "/conversations", "statuses=running&started_after=2026-01-01T00:00:00Z"
    )
    assert not wrong
    assert message.started_after.seconds == 1767225600

    message, wrong = _bind("PUT", "/admin/policy", "request_id=r", {})
    assert not wrong
    assert message.HasField("policy")
    assert message.request_id == "r"


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "field"),
    [
        ("GET", "/conversations", "page=3", None, "page"),
        ("GET", "/conversations", "page_size=many", None, "page_size"),
        ("GET", "/conversations", "page_size=1&page_size=2", None, "page_size"),
        ("GET", "/conversations/c", "conversation_id=d", None, "conversation_id"),
        ("GET", "/conversations/c/stream", "filter=x", None, "filter"),
        ("GET", "/conversations/c/stream", "filter.kind=x", None, "filter.kind"),
        ("GET", "/conversations/%ff", "", None, "conversation_id"),
        ("GET", "/conversations/c", "", {"a": 1}, ""),
        ("POST", "/conversations/start", "task=x", {}, "task"),
        ("POST", "/conversations/start", "", [1], ""),
        ("POST", "/conversations/c/message", "", {"conversation_id": "d"}, "conversation_id"),
        ("GET", "/conversations", "&".join(f"statuses={n}" for n in range(300)), None, ""),
    ],
)
def test_what_does_not_fit_is_named(
    method: str, path: str, query: str, body: object, field: str
) -> None:
    _, wrong = _bind(method, path, query, body)
    assert wrong == [field]


def test_templates_that_cannot_be_served_are_refused_when_the_service_starts() -> None:
    for text in ("conversations", "/a/{b=**}/c", "/a/{b}c", "/a//b"):
        with pytest.raises(ValueError, match="path"):
            parse_template(text)
