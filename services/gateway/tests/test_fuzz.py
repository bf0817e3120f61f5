"""Whatever is sent over HTTP: an answer in the agreed shape, and never a defect of ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest_asyncio
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from agentmesh_gateway.rest.routes import Route, routes_of
from agentmesh_gateway.rest.template import SegmentKind
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meshkit.testkit import HostFactory

from .conftest import Gateway, Gateways

ROUTES = routes_of(PUBLIC_SERVICES)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "-1", "1e400", "9" * 30, "\x00", "2026-01-01T00:00:00Z", "1s", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
# Every service behind the gateway serves nothing, so that nothing succeeds.
EXPECTED = {400, 401, 403, 404, 405, 413, 415, 429, 501, 503}


@pytest_asyncio.fixture
async def gateway(gateways: Gateways, mesh_hosts: HostFactory) -> AsyncIterator[Gateway]:
    empty = (await mesh_hosts.start("conversation_store")).grpc_address
    yield await gateways.start(
        allow_anonymous=True,
        store_address=empty,
        runtime_address=empty,
        tool_runner_address=empty,
    )


def plausible(message: Descriptor, depth: int = 2) -> st.SearchStrategy[Any]:
    """Documents with the fields of a message, and values that may or may not fit them."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in message.fields:
        values = ANYTHING
        nested = field.message_type
        if field.type == FieldDescriptor.TYPE_MESSAGE and nested is not None and depth:
            values = ANYTHING | plausible(nested, depth - 1)
        fields[field.name] = values
    extra = st.dictionaries(st.text(max_size=8), ANYTHING, max_size=1)
    known = st.fixed_dictionaries({}, optional=fields)
    return st.builds(lambda some, more: {**more, **some}, known, extra)


@st.composite
def http_requests(draw: st.DrawFn) -> tuple[str, str, bytes, dict[str, str]]:
    route: Route = draw(st.sampled_from(ROUTES))
    path = "".join(
        f"/{segment.text}"
        if segment.kind is SegmentKind.LITERAL
        else "/" + quote(draw(st.text(min_size=1, max_size=10)).encode("utf-8", "replace"), "")
        for segment in route.template.segments
    )
    names = [field.name for field in route.request.fields]
    pairs = draw(
        st.lists(
            st.tuples(st.sampled_from([*names, "filter.kinds", "x"]), st.text(max_size=8)),
            max_size=2,
        )
    )
    query = "&".join(f"{name}={quote(text.encode('utf-8', 'replace'), '')}" for name, text in pairs)
    headers = {"content-type": "application/json"}
    if draw(st.booleans()):
        token = draw(st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=25))
        headers |= {"last-event-id": token, "idempotency-key": token}
    body = b""
    if route.body:
        document = draw(plausible(route.request) | ANYTHING)
        text = json.dumps(document, ensure_ascii=draw(st.booleans()))
        body = text.encode("utf-8", "surrogatepass")
    return route.http_method, f"{path}?{query}" if query else path, body, headers


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(request_=http_requests())
async def test_no_request_meets_a_defect(
    gateway: Gateway, request_: tuple[str, str, bytes, dict[str, str]]
) -> None:
    method, path, body, headers = request_
    response = await gateway.http.request(method, path, content=body or None, headers=headers)
    if path.partition("?")[0].endswith("/health") and response.status_code == 200:
        return
    assert response.status_code in EXPECTED, response.text
    error = response.json()["error"]
    assert error["code"] == response.status_code
    assert error["details"][0]["reason"] != "INTERNAL"
