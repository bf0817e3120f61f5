"""What comes in while the last turn is being committed."""

from __future__ import annotations

import asyncio

import pytest
from agentmesh.conversation.v1 import conversation_pb2, message_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import assert_dense, follow, messages_of, run_end
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply
from tests.support.prompts import Prompt
from tests.support.wire_tap import Side, WireTap


@pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
async def test_a_message_that_races_the_last_commit_is_answered(
    model_mesh: Mesh, model_server: ModelServer, store_tap: WireTap, side: Side
) -> None:
    model_server.reply_with(
        lambda body, number: Reply(f"I saw: {Prompt(body).messages[-1]['content']}")
    )
    stub = ConversationServiceStub(model_mesh.channel())
    conversation_id = ""

    async def speak() -> None:
        await stub.SendMessage(
            conversations.SendMessageRequest(
                conversation_id=conversation_id, content="and one more thing"
            )
        )

    store_tap.at(side, "CommitTurn", 1, speak)
    ready = asyncio.Event()

    async def wait_until_known() -> None:
        await ready.wait()

    store_tap.at(Side.BEFORE, "BeginStep", 1, wait_until_known)
    started = await model_mesh.start_conversation("say it", ("reviewer",), max_rounds=1)
    conversation_id = started.conversation_id
    ready.set()

    for _ in range(100):
        events = await follow(model_mesh.channel(), conversation_id)
        said = [m for m in messages_of(events) if m.role == message_pb2.MESSAGE_ROLE_AGENT]
        if len(said) == 2:
            break
        await asyncio.sleep(0.05)
    assert_dense(events)
    assert [m.content.split("content")[-1] for m in said][-1].endswith("and one more thing")
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED


@pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
async def test_a_cancel_that_races_the_last_commit_leaves_one_end(
    model_mesh: Mesh, model_server: ModelServer, store_tap: WireTap, side: Side
) -> None:
    model_server.reply_with(Reply("the last word"))
    stub = ConversationServiceStub(model_mesh.channel())
    conversation_id = ""
    answers: list[conversations.CancelConversationResponse] = []
    ready = asyncio.Event()

    async def wait_until_known() -> None:
        await ready.wait()

    async def cancel() -> None:
        answers.append(
            await stub.CancelConversation(
                conversations.CancelConversationRequest(conversation_id=conversation_id)
            )
        )

    store_tap.at(Side.BEFORE, "BeginStep", 1, wait_until_known)
    store_tap.at(side, "CommitTurn", 1, cancel)
    started = await model_mesh.start_conversation("say it", ("reviewer",), max_rounds=1)
    conversation_id = started.conversation_id
    ready.set()
    events = await follow(model_mesh.channel(), conversation_id)

    assert_dense(events)
    assert sum(e.WhichOneof("kind") == "run_ended" for e in events) == 1
    expected = (
        conversation_pb2.RUN_STATUS_CANCELLED
        if side is Side.BEFORE
        else conversation_pb2.RUN_STATUS_COMPLETED
    )
    assert run_end(events).status == expected
    while not answers:
        await asyncio.sleep(0.01)
    assert answers[0].conversation_id == conversation_id
