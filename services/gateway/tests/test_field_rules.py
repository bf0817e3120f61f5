"""Each field rule of each public method, broken once over gRPC and REST: the field is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import grpc
import httpx
import pytest_asyncio
from agentmesh.gateway.v1.conversation_service_pb2 import ConverseResponse
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from agentmesh_gateway.rest.codec import encode_message
from agentmesh_gateway.rest.routes import Route, routes_of
from agentmesh_gateway.rest.template import SegmentKind
from meshkit.errors import from_rich_status, from_rpc_error
from meshkit.testkit import MeshProcess

from .conftest import Gateway, Gateways
from .rule_breaking import Breach, breaches_of


def is_first(breach: Breach) -> bool:
    """Whether a stream may begin with it. The first message of Converse opens a conversation."""
    return breach.method.name != "Converse" or breach.path.startswith("open.")


METHODS = [method for service in PUBLIC_SERVICES for method in service.methods]
BREACHES = [breach for method in METHODS for breach in breaches_of(method) if is_first(breach)]
ROUTES: dict[str, Route] = {}
for _route in routes_of(PUBLIC_SERVICES):
    ROUTES.setdefault(_route.method.full_name, _route)
RULES_AT_LEAST = 250
_NAMES_A_CONVERSATION = ("open.start", "open.conversation_id")


@pytest_asyncio.fixture
async def gateway(gateways: Gateways, shared_store: MeshProcess) -> AsyncIterator[Gateway]:
    yield await gateways.start(
        store_address=shared_store.grpc_address,
        allow_anonymous=True,
        requests_per_second=0,
        requests_per_second_per_principal=0,
    )


async def test_over_grpc(gateway: Gateway) -> None:
    wrong = [text for breach in BREACHES if (text := await over_grpc(gateway, breach))]
    assert not wrong, "\n".join(wrong)
    assert len(BREACHES) >= RULES_AT_LEAST


async def test_over_rest(gateway: Gateway) -> None:
    told = [breach for breach in BREACHES if can_be_told(breach)]
    wrong = [text for breach in told if (text := await over_rest(gateway, breach))]
    assert not wrong, "\n".join(wrong)
    assert len(told) >= RULES_AT_LEAST * 0.8


async def over_grpc(gateway: Gateway, breach: Breach) -> str:
    """What is wrong with the answer; "" if nothing is."""
    method = breach.method
    path = f"/{method.containing_service.full_name}/{method.name}"
    shape = ("stream" if method.client_streaming else "unary") + (
        "_stream" if method.server_streaming else "_unary"
    )
    call: Any = getattr(gateway.channel, shape)(path)
    if method.name == "Converse" and not breach.path.startswith(_NAMES_A_CONVERSATION):
        breach.request.open.conversation_id = "conv_1"
    message = breach.request.SerializeToString()
    running = call(iter([message]) if method.client_streaming else message, timeout=30)
    try:
        answer = await (running.read() if method.server_streaming else running)
    except grpc.aio.AioRpcError as error:
        told = from_rpc_error(error)
    else:
        if method.name != "Converse":
            return f"{breach}: accepted"
        # Its requests are answered one by one, in the stream.
        told = from_rich_status(ConverseResponse.FromString(answer).ack.error)
    fields = [violation.field for violation in told.violations]
    wanted = breach.path
    if method.name == "Converse":  # an answer speaks of the one message of the request's oneof
        wanted = wanted.partition(".")[2] or wanted
    named = told.code is grpc.StatusCode.INVALID_ARGUMENT and wanted in fields
    return "" if named else f"{breach}: {told} {fields}"


def can_be_told(breach: Breach) -> bool:
    """Whether a request over REST can break that rule."""
    route = ROUTES.get(breach.method.full_name)
    if route is None or route.is_upload or breach.path == "single_events":
        return False
    if breach.path in route.template.variables and not getattr(breach.request, breach.path):
        return False  # an empty segment is another path
    in_body = route.body == "*" or breach.path.startswith(route.body or "?")
    # Lists of messages have no place in a query.
    return in_body or not any(sign in breach.path for sign in "[.")


async def over_rest(gateway: Gateway, breach: Breach) -> str:
    """As `over_grpc`."""
    response = await gateway.http.send(http_request(gateway, breach))
    if response.status_code == 400:
        details = response.json()["error"]["details"]
        violations = [v for detail in details for v in detail.get("field_violations", ())]
        if breach.path in [violation["field"] for violation in violations]:
            return ""
    return f"{breach}: {response.status_code} {response.text[:300]}"


def http_request(gateway: Gateway, breach: Breach) -> httpx.Request:
    """The request of a breach, each field where the route wants it."""
    route = ROUTES[breach.method.full_name]
    document: dict[str, Any] = encode_message(breach.request)
    variables = iter(route.template.variables)
    path = ""
    for segment in route.template.segments:
        text = segment.text
        if segment.kind is not SegmentKind.LITERAL:
            name = next(variables)
            text = quote(str(document.pop(name, "")) or "x", safe="")
        path += f"/{text}"
    if route.body == "*":
        return gateway.http.build_request(route.http_method, path, json=document)
    body = document.pop(route.body, None) if route.body else None
    kept = {name: value for name, value in document.items() if value not in ("", 0, False, [], {})}
    if breach.path in document:
        kept[breach.path] = document[breach.path]
    query = urlencode(kept, doseq=True)
    return gateway.http.build_request(route.http_method, f"{path}?{query}", json=body)
