"""G2 through the gateway: everything once, in order, over reconnects and restarts."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import (
    assert_dense,
    events_of,
    follow,
    subscribe,
)
from tests.support.errors import reason_of
from tests.support.mesh import Mesh


async def test_resuming_anywhere_gives_the_rest_of_the_log(mesh: Mesh) -> None:
    conversation_id = await mesh.start_main_job()
    whole = await subscribe(mesh.channel(), conversation_id)
    log = [e.SerializeToString(deterministic=True) for e in events_of(whole)]
    for item in whole:
        if not item.resume_token:
            continue
        rest = await subscribe(mesh.channel(), conversation_id, resume_token=item.resume_token)
        seen = events_of(rest)
        if seen:
            assert_dense(seen, seen[0].sequence)
        assert [e.SerializeToString(deterministic=True) for e in seen] == log[
            len(log) - len(seen) :
        ]
    for after in (0, 1, len(log) - 1, len(log)):
        rest = await subscribe(mesh.channel(), conversation_id, after_sequence=after)
        assert [e.SerializeToString(deterministic=True) for e in events_of(rest)] == log[after:]


async def test_subscribers_that_come_and_go_see_the_same_log(mesh: Mesh) -> None:
    conversation_id = await mesh.start_main_job()
    chance = random.Random(7)

    async def restless() -> list[bytes]:
        seen: list[bytes] = []
        token = ""
        stub = ConversationServiceStub(mesh.channel())
        while True:
            call = stub.SubscribeConversation(
                conversations.SubscribeConversationRequest(
                    conversation_id=conversation_id,
                    resume_token=token,
                    until=stream_pb2.SUBSCRIBE_UNTIL_RUN_END,
                ),
                timeout=90,
            )
            patience = chance.randint(1, 8)
            async for response in call:
                token = response.item.resume_token or token
                seen += [
                    e.SerializeToString(deterministic=True) for e in response.item.events.events
                ]
                patience -= 1
                if not patience:
                    call.cancel()
                    break
            else:
                return seen

    views = await asyncio.gather(*(restless() for _ in range(8)))
    log = events_of(await subscribe(mesh.channel(), conversation_id))
    assert_dense(log)
    for view in views:
        assert view == [e.SerializeToString(deterministic=True) for e in log]


async def test_a_subscriber_lives_through_a_kill_of_store_and_gateway(own_mesh: Mesh) -> None:
    conversation_id = await own_mesh.start_main_job()
    following = asyncio.create_task(follow(own_mesh.channel(), conversation_id))
    for name in ("conversation_store", "gateway"):
        await asyncio.sleep(0.3)
        await own_mesh.kill(name)
        await own_mesh.restart(name)
    events = await following
    assert_dense(events)
    log = events_of(await subscribe(own_mesh.channel(), conversation_id))
    assert [e.sequence for e in events] == [e.sequence for e in log]


async def test_beyond_the_head_is_out_of_range(mesh: Mesh) -> None:
    conversation_id = await mesh.start_main_job()
    await follow(mesh.channel(), conversation_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await subscribe(mesh.channel(), conversation_id, after_sequence=10_000)
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert reason_of(caught.value) == "BEYOND_HEAD"


async def test_a_made_up_token_is_refused(mesh: Mesh) -> None:
    conversation_id = await mesh.start_main_job()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await subscribe(mesh.channel(), conversation_id, resume_token="made-up")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
