"""What HTTP says around the calls: paths, headers and encodings, each refused by its name."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from .conftest import Gateway, Gateways
from .front import START, Front, violations
from .test_bad_requests import problem

JSON = {"content-type": "application/json"}
FILE = {"content-type": "application/octet-stream"}
BODY = json.dumps({"task": "", "agents": ["a"]}).encode()
"""Refused, but only when it was read."""


@pytest_asyncio.fixture
async def gateway(gateways: Gateways) -> AsyncIterator[Gateway]:
    yield await gateways.start(allow_anonymous=True, max_message_bytes=64 * 1024)


@pytest.mark.parametrize(("path", "kind"), [(START, JSON), ("/blobs", FILE)])
async def test_compressed_bodies_are_refused_by_that_name(
    gateway: Gateway, path: str, kind: dict[str, str]
) -> None:
    headers = {**kind, "content-encoding": "gzip"}
    refused = await gateway.http.post(path, content=gzip.compress(BODY), headers=headers)
    assert "not as gzip" in problem(refused, 415, "MALFORMED_BODY")["message"]
    assert refused.headers["accept-encoding"] == "identity"


async def test_a_body_as_it_is_may_say_so(gateway: Gateway) -> None:
    headers = {**JSON, "content-encoding": "identity"}
    response = await gateway.http.post(START, content=BODY, headers=headers)
    assert list(violations(response)) == ["task"]


@pytest.mark.parametrize(
    ("content", "content_type", "said"),
    [
        (b"\xef\xbb\xbf" + BODY, "application/json", "BOM"),
        (BODY, "application/json; charset=latin-1", "latin-1"),
        (BODY.decode().encode("utf-16"), "application/json", "UTF-8"),
    ],
)
async def test_other_spellings_of_json_are_refused(
    gateway: Gateway, content: bytes, content_type: str, said: str
) -> None:
    headers = {"content-type": content_type}
    response = await gateway.http.post(START, content=content, headers=headers)
    assert said in problem(response, 400, "MALFORMED_BODY")["message"]


@pytest.mark.parametrize(
    "name",
    [
        *("authorization", "x-api-key", "content-type", "idempotency-key", "last-event-id"),
        *("x-agentmesh-role", "x-forwarded-client-cert"),
    ],
)
async def test_a_header_that_decides_something_comes_once(gateway: Gateway, name: str) -> None:
    headers = [("content-type", "application/json"), (name, "amk_a"), (name, "amk_b")]
    response = await gateway.http.post(START, content=BODY, headers=headers)
    assert name in problem(response, 400, "MALFORMED_BODY")["message"]


@pytest.mark.parametrize("zeros", [0, 20, 5000])
async def test_ids_beyond_all_events_are_refused(gateway: Gateway, zeros: int) -> None:
    headers = {"last-event-id": "0" * zeros + "9" * 30}
    response = await gateway.http.get("/conversations/conv_1/stream", headers=headers)
    assert list(violations(response)) == ["Last-Event-ID"]


async def test_a_header_that_is_repeated_word_for_word_says_nothing_new(gateway: Gateway) -> None:
    headers = [("content-type", "application/json"), ("content-type", "application/json")]
    response = await gateway.http.post(START, content=BODY, headers=headers)
    assert list(violations(response)) == ["task"]


@pytest.mark.parametrize(
    "path", ["/agents/", "/agents%2Fhealth", "//agents", "/Agents", "/agents/a/b/c", "/docs/"]
)
async def test_paths_are_taken_literally(gateway: Gateway, path: str) -> None:
    problem(await gateway.http.get(path), 404, "NOT_FOUND")


async def test_head_answers_as_get_without_a_body(gateway: Gateway) -> None:
    got, head = await gateway.http.get("/nothing"), await gateway.http.head("/nothing")
    assert (head.status_code, head.content) == (404, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    refused = await gateway.http.head("/conversations/conv_1/stream")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, OPTIONS")


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "DELETE"])
async def test_methods_that_a_path_does_not_take_are_named(gateway: Gateway, method: str) -> None:
    response = await gateway.http.request(method, "/agents/register")
    problem(response, 405, "UNIMPLEMENTED")
    assert response.headers["allow"] == "POST, OPTIONS"


async def registered(http: httpx.AsyncClient, name: str) -> httpx.Response:
    body = {"name": name, "config": {"role": "r", "system_message": "s"}}
    response = await http.post("/agents/register", json=body)
    assert response.status_code == 200, response.text
    return response


async def test_if_match_stands_for_the_etag(front: Front) -> None:
    made = await registered(front.http, "matched")
    tag = made.headers["etag"]
    assert tag == f'"{made.json()["agent"]["etag"]}"'
    assert (await front.http.get("/agents/matched")).headers["etag"] == tag
    change = {"config": {"role": "other"}, "update_mask": "role"}
    changed = await front.http.patch("/agents/matched", json=change, headers={"if-match": tag})
    assert changed.status_code == 200, changed.text
    assert changed.headers["etag"] != tag
    stale = await front.http.patch("/agents/matched", json=change, headers={"if-match": tag})
    problem(stale, 409, "ETAG_MISMATCH")
    anything = await front.http.patch("/agents/matched", json=change, headers={"if-match": "*"})
    assert anything.status_code == 200, anything.text
    both = {**change, "etag": "another"}
    refused = await front.http.patch("/agents/matched", json=both, headers={"if-match": tag})
    assert list(violations(refused)) == ["etag"]
    for wrong in ("v1", '"a", "b"', '""'):
        headers = {"if-match": wrong}
        refused = await front.http.patch("/agents/matched", json=change, headers=headers)
        assert list(violations(refused)) == ["If-Match"]
