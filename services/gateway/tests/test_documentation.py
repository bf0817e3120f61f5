"""The document at /openapi.json and the pages at /docs, as a client and a browser get them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urljoin

import jsonschema
import pytest
import pytest_asyncio
from agentmesh.common.v1 import options_pb2
from agentmesh.common.v1.errors_pb2 import ErrorReason
from agentmesh_gateway.openapi import examples
from agentmesh_gateway.openapi.comments import comment_of
from agentmesh_gateway.openapi.document import openapi_document
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from agentmesh_gateway.rest.routes import Route, routes_of
from google.protobuf.descriptor import MethodDescriptor
from openapi_spec_validator import OpenAPIV31SpecValidator

from .conftest import Gateway, Gateways

ROUTES = routes_of(PUBLIC_SERVICES)
METHODS = [method for service in PUBLIC_SERVICES for method in service.methods]
DOCUMENT = openapi_document(ROUTES, PUBLIC_SERVICES, "1")
SCHEMAS = DOCUMENT["components"]["schemas"]


@pytest_asyncio.fixture
async def gateway(gateways: Gateways) -> AsyncIterator[Gateway]:
    yield await gateways.start(allow_anonymous=True)


def operations() -> Iterator[dict[str, Any]]:
    for item in DOCUMENT["paths"].values():
        yield from item.values()


def operation(name: str) -> dict[str, Any]:
    return next(found for found in operations() if found["operationId"] == name)


def body_schema(name: str) -> dict[str, Any]:
    content: dict[str, Any] = operation(name)["requestBody"]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return resolved(schema)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = SCHEMAS[name] if name else schema
    return found


def parameters(name: str) -> dict[str, Any]:
    return {found["name"]: found for found in operation(name)["parameters"] if "name" in found}


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.method.name)
def test_every_route_is_an_operation_with_its_words(route: Route) -> None:
    found = operation(route.method.name)
    assert found["summary"]
    assert found["responses"]["200"]["content"]
    policy = route.method.GetOptions().Extensions[options_pb2.policy]
    if policy.audience == options_pb2.AUDIENCE_ANYONE:
        assert found["security"] == []
        assert "401" not in found["responses"]
    else:
        assert "security" not in found
        assert {"400", "401", "403", "404", "429"} <= set(found["responses"])
        assert found["x-required-scope"] == policy.scope


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_method_and_field_of_the_api_has_a_comment(method: MethodDescriptor) -> None:
    assert comment_of(method.full_name)
    for message in (method.input_type, method.output_type):
        assert comment_of(message.full_name)
        for field in message.fields:
            assert comment_of(field.full_name), field.full_name


def test_rules_of_the_contract_are_rules_of_the_schemas() -> None:
    start = body_schema("StartConversation")
    assert start["required"] == ["task"]
    assert start["additionalProperties"] is False
    fields = start["properties"]
    assert fields["agents"]["maxItems"] == 64
    assert fields["agents"]["items"] == {"type": "string", "minLength": 1, "maxLength": 64}
    assert fields["task"]["minLength"] == 1
    assert fields["max_rounds"]["exclusiveMinimum"] == 0
    assert fields["max_rounds"]["maximum"] == 10_000
    assert fields["priority"]["minimum"] == -100
    assert fields["labels"]["maxProperties"] == 64
    bound = SCHEMAS["BudgetInput"]["properties"]["max_tokens"]
    assert bound["exclusiveMinimum"] == 0
    assert re.search(bound["pattern"], "10")
    assert not re.search(bound["pattern"], "0")
    register = body_schema("RegisterAgent")
    assert register["required"] == ["name", "config"]
    assert register["properties"]["name"]["pattern"] == "^[A-Za-z_][A-Za-z0-9_]{0,63}$"
    decision = body_schema("ResolveApproval")["properties"]["decision"]
    named, numbered = decision["anyOf"]
    assert named["enum"] == ["approved", "edited", "rejected", "answered"]
    assert numbered["type"] == "integer"


def test_names_of_the_path_are_not_in_the_body_and_nested_names_are_in_the_query() -> None:
    assert "conversation_id" not in body_schema("SendMessage")["properties"]
    assert parameters("SendMessage")["conversation_id"]["in"] == "path"
    watch = parameters("SubscribeConversation")
    assert watch["filter.kinds"]["schema"]["type"] == "array"
    assert watch["until"]["schema"] == {"$ref": "#/components/schemas/SubscribeUntil"}
    assert "filter" not in watch
    assert "single_events" not in parameters("SubscribeTenant")


def test_values_are_described_as_the_codec_writes_them() -> None:
    conversation = SCHEMAS["GetConversationResponse"]["properties"]
    assert conversation["head_sequence"]["type"] == ["integer", "string"]
    assert conversation["started_at"]["format"] == "date-time"
    assert conversation["status"]["$ref"].endswith("/ConversationStatus")
    assert "running" in SCHEMAS["ConversationStatus"]["enum"]
    assert "unspecified" not in SCHEMAS["ConversationStatus"]["enum"]
    required = SCHEMAS["GetConversationResponse"]["required"]
    assert "summary" in required
    assert "completed_at" not in required  # a message, which can be told to be unset
    assert "status" not in required  # an enum is left out when unspecified


def test_streams_files_and_uploads_are_told_from_json() -> None:
    watch = operation("SubscribeConversation")["responses"]["200"]["content"]
    assert list(watch) == ["text/event-stream"]
    events = watch["text/event-stream"]["x-events"]
    assert watch["text/event-stream"]["schema"]["properties"]["event"]["enum"] == list(events)
    assert events["message"] == {"$ref": "#/components/schemas/Event"}
    assert events["heartbeat"] == {"$ref": "#/components/schemas/Heartbeat"}
    assert "events" not in events
    download = operation("DownloadArtifact")["responses"]["200"]["content"]
    assert list(download) == ["application/octet-stream"]
    upload = operation("UploadArtifact")
    assert list(upload["requestBody"]["content"]) == ["application/octet-stream"]
    assert "size_bytes" not in parameters("UploadArtifact")
    lines = operation("ImportConversation")["requestBody"]["content"]
    assert list(lines) == ["application/jsonl", "application/octet-stream"]


def test_every_reason_stands_with_the_status_that_it_comes_with() -> None:
    responses = DOCUMENT["components"]["responses"]
    said = {status: text["description"] for status, text in responses.items()}
    assert "`INVALID_FIELD`" in said["Error400"]
    assert "`ETAG_MISMATCH`" in said["Error409"]
    assert "`MESSAGE_TOO_LARGE`" in said["Error413"]
    assert "`RATE_LIMITED`" in said["Error429"]
    everything = "".join(said.values())
    for name in ErrorReason.keys():  # noqa: SIM118  an enum of protobuf is no dict
        reason = name.removeprefix("ERROR_REASON_")
        if reason not in ("UNSPECIFIED", "CANCELLED"):  # nobody is left to read the second one
            assert f"`{reason}`" in everything, reason


@pytest.mark.parametrize("name", sorted({*examples.REQUESTS, *examples.RESPONSES}))
def test_examples_fit_their_schemas(name: str) -> None:
    found = operation(name)
    media = [*found.get("requestBody", {"content": {}})["content"].values()]
    media += found["responses"]["200"]["content"].values()
    shown = [content for content in media if "example" in content]
    assert shown
    for content in shown:
        _fits(content["example"], content["schema"])


def _fits(instance: Any, schema: dict[str, Any]) -> None:
    jsonschema.validate(instance, {**schema, "components": DOCUMENT["components"]})


async def test_real_responses_and_errors_fit_their_schemas(gateway: Gateway) -> None:
    health = (await gateway.http.get("/health")).json()
    _fits(health, {"$ref": "#/components/schemas/CheckHealthResponse"})
    for answer in (
        await gateway.http.post("/conversations/start", json={"taks": "x"}),
        await gateway.http.get("/conversations"),
        await gateway.http.get("/nothing"),
    ):
        assert answer.status_code >= 400
        _fits(answer.json(), {"$ref": "#/components/schemas/Error"})


async def test_the_document_is_served_once_and_then_known(gateway: Gateway) -> None:
    first = await gateway.http.get("/openapi.json")
    assert first.status_code == 200
    assert first.headers["content-type"] == "application/json"
    assert first.headers["content-encoding"] == "gzip"
    assert first.headers["access-control-allow-origin"] == "*"
    assert first.json()["openapi"].startswith("3.1")
    tag = first.headers["etag"]
    again = await gateway.http.get("/openapi.json", headers={"if-none-match": f'"x", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    plain = await gateway.http.get("/openapi.json", headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers
    assert plain.headers["etag"] != tag
    assert plain.json() == first.json()
    head = await gateway.http.head("/openapi.json")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == first.headers["content-length"]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/start.js"])
async def test_pages_are_only_read(gateway: Gateway, path: str) -> None:
    refused = await gateway.http.post(path, json={})
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, HEAD, OPTIONS"
    _fits(refused.json(), {"$ref": "#/components/schemas/Error"})
    asked = await gateway.http.options(path)
    assert (asked.status_code, asked.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


async def test_the_page_needs_nothing_but_this_gateway(gateway: Gateway) -> None:
    page = await gateway.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy  # neither inline scripts nor those of others
    assert "connect-src 'self';" in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|javascript:", page.text)
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 5
    for asset in assets:
        address = urljoin(f"{gateway.url}/docs", asset)
        assert address.startswith(f"{gateway.url}/")
        found = await gateway.http.get(address)
        assert found.status_code == 200, asset
        assert found.content
        assert found.headers["x-content-type-options"] == "nosniff"
    script = (await gateway.http.get("/docs/start.js")).text
    assert 'url: "openapi.json"' in script
    assert "validatorUrl: null" in script


async def test_the_document_needs_no_credentials_where_the_api_does(gateways: Gateways) -> None:
    strict = await gateways.start()
    for path in ("/openapi.json", "/docs"):
        assert (await strict.http.get(path)).status_code == 200
