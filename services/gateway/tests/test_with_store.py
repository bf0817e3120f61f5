"""The gateway in front of a real store: conversations, keys, and a store that dies."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_RUN_END
from agentmesh.gateway.v1 import admin_service_pb2 as admin_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from httpx_sse import aconnect_sse
from meshkit.testkit import raises_rich

from .front import QUICK_START, START, Front, reason


async def test_the_quick_start_works_literally(front: Front) -> None:
    response = await front.http.post(
        START, content=json.dumps(QUICK_START), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 200
    content = response.json()
    assert content["conversation_id"].startswith("conv_")
    assert content["status"] == "running"
    assert content["agents"] == QUICK_START["agents"]
    assert content["task"] == QUICK_START["task"]
    assert content["started_at"].endswith("Z")
    assert content["max_rounds"] == 12

    found = (await front.http.get(f"/conversations/{content['conversation_id']}")).json()
    assert found["status"] == "running"
    assert found["task"] == QUICK_START["task"]
    assert isinstance(found["messages"], list)
    assert found["summary"] == ""


async def test_a_message_is_read_back_as_it_was_sent(front: Front) -> None:
    conversation = (await front.started())["conversation_id"]
    body = {"content": "Please add input validation to the API endpoints", "agent": "user"}
    sent = await front.http.post(f"/conversations/{conversation}/message", json=body)
    assert sent.status_code == 200, sent.text
    assert sent.json()["sequence"] > 0
    messages = (await front.http.get(f"/conversations/{conversation}")).json()["messages"]
    assert messages[-1]["agent"] == "user"
    assert messages[-1]["content"] == body["content"]
    assert messages[-1]["timestamp"].endswith("Z")


async def test_long_conversations_are_read_page_by_page_from_the_end(front: Front) -> None:
    conversation = (await front.started())["conversation_id"]
    path = f"/conversations/{conversation}"
    for number in range(30):
        await front.http.post(f"{path}/message", json={"content": f"message {number}"})
    pages: list[list[str]] = []
    before = 0
    while True:
        page = (
            await front.http.get(path, params={"message_limit": 7, "before_sequence": before})
        ).json()
        pages.insert(0, [message["content"] for message in page["messages"]])
        before = page["messages_before_sequence"]
        if not before:
            break
    everything = [content for page in pages for content in page]
    assert everything[-30:] == [f"message {number}" for number in range(30)]
    assert len(set(everything)) == len(everything)
    assert all(len(page) == 7 for page in pages[1:])
    nothing = (await front.http.get(path, params={"without_messages": "true"})).json()
    assert nothing["messages"] == []


async def test_a_page_of_large_messages_is_as_long_as_a_response_may_be(front: Front) -> None:
    conversation = (await front.started())["conversation_id"]
    path = f"/conversations/{conversation}"
    sent = "abcdefghijklmnop"
    for letter in sent:
        await front.http.post(f"{path}/message", json={"content": letter * 250_000})
    read, before, pages = "", 0, 0
    while pages == 0 or before:
        page = (await front.http.get(path, params={"before_sequence": before})).json()
        read = "".join(message["content"][0] for message in page["messages"]) + read
        before, pages = page["messages_before_sequence"], pages + 1
        assert sum(len(message["content"]) for message in page["messages"]) < 4 * 2**20
    assert read.endswith(sent)
    assert len(read) == len(sent) + 1, "the task comes first"
    assert pages > 1


async def test_lists_have_pages(own_front: Front) -> None:
    for _ in range(3):
        await own_front.started()
    first = (await own_front.http.get("/conversations", params={"page_size": 2})).json()
    assert len(first["conversations"]) == 2
    rest = {"page_size": 2, "page_token": first["next_page_token"]}
    second = (await own_front.http.get("/conversations", params=rest)).json()
    assert len(second["conversations"]) == 1
    assert second["next_page_token"] == ""
    names = [tool["name"] for tool in (await own_front.http.get("/tools")).json()["tools"]]
    assert names == ["code_analyzer", "code_executor", "task_planner"]
    token, teams = "", []
    while True:
        page = (
            await own_front.http.get("/workflows", params={"page_size": 2, "page_token": token})
        ).json()
        teams += [team["id"] for team in page["teams"]]
        token = page["next_page_token"]
        if not token:
            break
    assert teams == ["loop", "orphan", "outer", "software_development", "swarm"]


async def test_an_unknown_conversation_is_not_found_everywhere(front: Front) -> None:
    for path in ("", "/events", "/stream", "/debug", "/trace"):
        response = await front.http.get(f"/conversations/conv_nothing{path}")
        assert response.status_code == 404, path
        error = response.json()["error"]
        assert error["details"][0]["reason"] == "NOT_FOUND"
    for path, body in (("message", {"content": "x"}), ("cancel", {}), ("pause", {})):
        response = await front.http.post(f"/conversations/conv_nothing/{path}", json=body)
        assert response.status_code == 404, path
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await front.conversations.GetConversation(
            pb2.GetConversationRequest(conversation_id="conv_nothing")
        )


async def test_cancelling_is_final_and_harmless_to_repeat(front: Front) -> None:
    conversation = (await front.started())["conversation_id"]
    for _ in range(2):
        answer = await front.http.post(f"/conversations/{conversation}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    debug = (await front.http.get(f"/conversations/{conversation}/debug")).json()
    assert [run["status"] for run in debug["runs"]] == ["cancelled"]
    assert debug["conversation"]["task"] == ""
    assert debug["detail"]["events"] >= 3


async def test_the_log_is_streamed_and_resumed_over_both_edges(front: Front) -> None:
    conversation = (await front.started())["conversation_id"]
    await front.http.post(f"/conversations/{conversation}/message", json={"content": "one"})
    await front.http.post(f"/conversations/{conversation}/cancel")
    path = f"/conversations/{conversation}/stream?until=run_end"

    async def read(**headers: str) -> list[tuple[str, str]]:
        async with aconnect_sse(front.http, "GET", path, headers=headers) as source:
            return [(frame.id, frame.event) async for frame in source.aiter_sse()]

    everything = [frame for frame in await read() if frame[1] != "heartbeat"]
    assert [number for number, _ in everything] == [str(n + 1) for n in range(len(everything))]
    assert everything[0][1] == "conversation_started"
    assert everything[-1][1] == "run_ended"
    rest = await read(**{"last-event-id": everything[1][0]})
    assert [frame for frame in rest if frame[1] != "heartbeat"] == everything[2:]

    stream = front.conversations.SubscribeConversation(
        pb2.SubscribeConversationRequest(
            conversation_id=conversation, until=SUBSCRIBE_UNTIL_RUN_END
        )
    )
    sequences = [str(event.sequence) async for item in stream for event in item.item.events.events]
    assert sequences == [number for number, _ in everything]


async def test_a_request_id_makes_repetition_harmless_however_it_is_given(front: Front) -> None:
    first = await front.started(request_id="r-1")
    assert (await front.started(request_id="r-1"))["conversation_id"] == first["conversation_id"]
    header = {"idempotency-key": "r-1"}
    again = await front.http.post(START, json=QUICK_START, headers=header)
    assert again.json()["conversation_id"] == first["conversation_id"]
    other = await front.http.post(START, json=QUICK_START | {"task": "other"}, headers=header)
    assert other.status_code == 409
    assert reason(other) == "REQUEST_ID_REUSED"


async def test_health_is_degraded_while_a_helper_is_down(front: Front) -> None:
    response = await front.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert response.json()["services"]["conversation_store"] == "serving"
    assert (await front.http.get("/agents/health")).json()["status"] == "degraded"


async def test_keys_end_anonymity_and_roles_are_enforced(own_front: Front) -> None:
    admin = (await own_front.http.post("/admin/keys", json={"role": "admin"})).json()["secret"]
    assert (await own_front.http.get("/agents")).status_code == 401

    as_admin = {"authorization": f"Bearer {admin}"}
    made = await own_front.http.post("/admin/keys", json={"role": "viewer"}, headers=as_admin)
    viewer, key_id = made.json()["secret"], made.json()["key"]["key_id"]
    as_viewer = {"x-api-key": viewer}
    assert (await own_front.http.get("/agents", headers=as_viewer)).status_code == 200
    refused = await own_front.http.post(START, json=QUICK_START, headers=as_viewer)
    assert refused.status_code == 403
    metadata = refused.json()["error"]["details"][0]["metadata"]
    assert metadata == {"required_role": "user", "role": "viewer"}

    admin_stub: Any = AdminServiceStub(own_front.gateway.channel)
    request = admin_pb2.ListKeysRequest()
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"):
        await admin_stub.ListKeys(request)
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await admin_stub.ListKeys(request, metadata=(("x-api-key", "amk_wrong"),))
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        await admin_stub.ListKeys(request, metadata=(("x-api-key", viewer),))
    listed = await admin_stub.ListKeys(request, metadata=(("x-api-key", admin),))
    assert len(listed.keys) == 2

    await own_front.http.post(f"/admin/keys/{key_id}/revoke", headers=as_admin)
    assert (await own_front.http.get("/agents", headers=as_viewer)).status_code == 401


async def test_a_store_that_was_killed_is_used_again_when_it_is_back(own_front: Front) -> None:
    conversation = (await own_front.started())["conversation_id"]
    await own_front.store.sigkill()
    response = await own_front.http.get(f"/conversations/{conversation}")
    assert response.status_code == 503
    info = response.json()["error"]["details"][0]
    assert info["metadata"] == {"service": "conversation_store"}
    health = await own_front.http.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")

    await own_front.store.start()
    async with asyncio.timeout(10):
        while (await own_front.http.get(f"/conversations/{conversation}")).status_code != 200:
            await asyncio.sleep(0.05)
    assert (await own_front.http.get("/health")).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_reading_needs_no_body(front: Front, method: str) -> None:
    response = await front.http.request(method, "/agents")
    assert response.status_code == 200
    assert bool(response.content) == (method == "GET")
