"""Forking, changing and deleting conversations over both edges."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from google.protobuf.field_mask_pb2 import FieldMask
from meshkit.testkit import raises_rich

from .front import Front, reason


async def log(front: Front, conversation: str) -> list[dict[str, Any]]:
    """All events, over REST."""
    response = await front.http.get(f"/conversations/{conversation}/events?page_size=500")
    assert response.status_code == 200, response.text
    events: list[dict[str, Any]] = response.json()["events"]
    return events


async def test_a_fork_begins_with_the_history(front: Front) -> None:
    source = (await front.started())["conversation_id"]
    body = {"at_sequence": 3, "request_id": f"fork-{source}"}
    response = await front.http.post(f"/conversations/{source}/fork", json=body)
    assert response.status_code == 200, response.text
    made = response.json()["conversation"]
    assert made["forked_from_conversation_id"] == source
    assert made["forked_at_sequence"] == 3
    assert made["status"] == "completed"
    shared = (await log(front, source))[:3]
    events = await log(front, made["conversation_id"])
    assert events[:3] == [{**e, "conversation_id": made["conversation_id"]} for e in shared]
    assert events[3]["conversation_forked"]["conversation_id"] == source
    again = await front.http.post(f"/conversations/{source}/fork", json=body)
    assert again.json()["conversation"]["conversation_id"] == made["conversation_id"]
    with raises_rich(grpc.StatusCode.OUT_OF_RANGE, "BEYOND_HEAD"):
        await front.conversations.ForkConversation(
            pb2.ForkConversationRequest(conversation_id=source, at_sequence=99_999)
        )


async def test_a_deleted_conversation_is_gone_over_both_edges(front: Front) -> None:
    name = (await front.started())["conversation_id"]
    response = await front.http.delete(f"/conversations/{name}")
    assert (response.status_code, response.json()) == (200, {})
    assert (await front.http.get(f"/conversations/{name}")).status_code == 404
    assert (await front.http.delete(f"/conversations/{name}")).status_code == 404
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await front.conversations.GetConversation(pb2.GetConversationRequest(conversation_id=name))
    listed = (await front.http.get("/conversations?page_size=500")).json()["conversations"]
    assert name not in {one["conversation_id"] for one in listed}


async def test_the_mask_names_what_changes(front: Front) -> None:
    name = (await front.started(labels={"team": "red"}))["conversation_id"]
    patch = pb2.ConversationPatch(labels={"team": "blue"}, legal_hold=True, retention_events=9)
    changed = await front.conversations.UpdateConversation(
        pb2.UpdateConversationRequest(
            conversation_id=name,
            conversation=patch,
            update_mask=FieldMask(paths=["legal_hold", "retention_events"]),
        )
    )
    assert changed.conversation.legal_hold
    assert changed.conversation.retention_events == 9
    assert dict(changed.conversation.labels) == {"team": "red"}
    held = await front.http.delete(f"/conversations/{name}")
    assert held.status_code == 400
    assert reason(held) == "LEGAL_HOLD"
    body: dict[str, Any] = {
        "conversation": {"labels": {"team": "green"}, "retention_age": "86400s"}
    }
    response = await front.http.patch(f"/conversations/{name}", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["conversation"]["labels"] == {"team": "green"}
    assert response.json()["conversation"]["retention_age"] == "86400s"
    assert response.json()["conversation"]["legal_hold"]
    body = {"conversation": {}, "update_mask": "legal_hold,retention_events,retention_age"}
    freed = (await front.http.patch(f"/conversations/{name}", json=body)).json()["conversation"]
    assert not freed["legal_hold"]
    assert "retention_events" not in freed
    assert (await front.http.delete(f"/conversations/{name}")).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"conversation": {}}, "conversation"),
        ({"conversation": {}, "update_mask": "status"}, "update_mask"),
        ({"conversation": {}, "update_mask": "max_rounds"}, "conversation.max_rounds"),
        ({"conversation": {"retention_age": "-5s"}}, "conversation.retention_age"),
        ({"conversation": {"retention_events": -5}}, "conversation.retention_events"),
    ],
)
async def test_a_change_of_nothing_is_refused(
    front: Front, body: dict[str, Any], field: str
) -> None:
    name = (await front.started())["conversation_id"]
    response = await front.http.patch(f"/conversations/{name}", json=body)
    assert response.status_code == 400, response.text
    violations = [
        violation["field"]
        for detail in response.json()["error"]["details"]
        for violation in detail.get("field_violations", ())
    ]
    assert violations == [field]
