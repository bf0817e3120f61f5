"""The service as a real process, with a real store and a real model server."""

from __future__ import annotations

import asyncio
from typing import Any

from agentmesh.conversation.v1 import conversation_pb2

from services.agent_runtime.tests.memory_world import agent, team
from services.agent_runtime.tests.real_mesh import StartMesh
from tests.support.model_server import Fault, ModelServer, Reply

MAX_ROUNDS = conversation_pb2.RUN_END_REASON_MAX_ROUNDS


def say_who(body: dict[str, Any], number: int) -> Reply:
    seen = [str(m.get("content"))[:20] for m in body["messages"]]
    return Reply(f"I see {len(seen)} messages, the last is {seen[-1]!r}")


async def test_a_conversation_runs_to_its_end(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say_who)
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice"), agent("bob")), "begin", max_rounds=5)
    items, ended = await asyncio.gather(mesh.stream(conversation), mesh.settled(conversation))
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_MAX_ROUNDS, mesh.runtimes[
        0
    ].log()
    said = await mesh.texts(conversation)
    assert [who for who, _ in said] == ["user", "alice", "bob", "alice", "bob", "alice"]
    assert ended.summary == said[-1][1]
    assert ended.usage.model_calls == 5
    assert ended.usage.output_tokens > 0
    streamed = [item.delta for item in items if item.HasField("delta")]
    assert {delta.kind for delta in streamed} <= {1}


async def test_killed_runtimes_lose_and_repeat_nothing(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say_who)
    model_server.delay = 0.3
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice"), agent("bob")), "begin", max_rounds=6)
    for calls in (2, 4):
        async with asyncio.timeout(30):
            while len(model_server.requests) < calls:
                await asyncio.sleep(0.01)
        await mesh.runtimes[0].restart()
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_MAX_ROUNDS, mesh.runtimes[
        0
    ].log()
    said = [who for who, _ in await mesh.texts(conversation)]
    assert said == ["user", "alice", "bob", "alice", "bob", "alice", "bob"]
    assert len(model_server.requests) <= 6 + 2


async def test_a_killed_store_comes_back_to_a_run_that_goes_on(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say_who)
    model_server.delay = 0.3
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice"), agent("bob")), "begin", max_rounds=4)
    async with asyncio.timeout(30):
        while len(model_server.requests) < 2:
            await asyncio.sleep(0.01)
    await mesh.store.restart()
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_MAX_ROUNDS, mesh.runtimes[
        0
    ].log()
    assert len(await mesh.texts(conversation)) == 5
    assert len(model_server.requests) <= 5


async def test_cancel_drops_the_model_call(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.fail_next(Fault(stream="stall", after_chunks=2))
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice")), "begin")
    async with asyncio.timeout(20):
        while not model_server.open_streams:
            await asyncio.sleep(0.01)
    await mesh.cancel(conversation)
    async with asyncio.timeout(5):
        while model_server.open_streams:
            await asyncio.sleep(0.01)
    ended = await mesh.settled(conversation)
    assert ended.status == conversation_pb2.CONVERSATION_STATUS_CANCELLED
    assert len(model_server.requests) == 1


async def test_refused_credentials_end_the_run_with_their_reason(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.fail_next(*[Fault(status=401, message="wrong key")] * 5)
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice")), "begin")
    ended = await mesh.settled(conversation)
    assert ended.status == conversation_pb2.CONVERSATION_STATUS_FAILED
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_MODEL_CREDENTIALS
    assert "OPENAI_API_KEY" in ended.run.detail
    assert len(model_server.requests) == 1


async def test_sigterm_hands_over_to_another_replica(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say_who)
    model_server.delay = 0.3
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice"), agent("bob")), "begin", max_rounds=6)
    async with asyncio.timeout(30):
        while len(model_server.requests) < 2:
            await asyncio.sleep(0.01)
    await mesh.add_runtime()
    assert await mesh.runtimes[0].sigterm() == 0, mesh.runtimes[0].log()
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == MAX_ROUNDS
    assert len(model_server.requests) == 6, "the drain lost a reply"
    kinds = [e.WhichOneof("kind") for e in await mesh.events(conversation)]
    assert "attempt_failed" not in kinds


async def test_a_person_is_waited_for_and_says_goodbye(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say_who)
    mesh = await start_mesh()
    member = agent("alice", human_input_mode="ALWAYS")
    conversation = await mesh.begin(team(member), "begin", human=True)
    waiting = await mesh.settled(conversation, waiting=True)
    assert waiting.status == conversation_pb2.CONVERSATION_STATUS_WAITING
    assert waiting.run.waiting_for == conversation_pb2.WAIT_KIND_INPUT
    await mesh.send(conversation, "go on")
    async with asyncio.timeout(20):
        while len(model_server.requests) < 2:
            await asyncio.sleep(0.01)
    assert model_server.requests[1]["messages"][-1]["content"] == "go on"
    await mesh.settled(conversation, waiting=True)
    await mesh.send(conversation, "exit")
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_TERMINATED
    assert len(model_server.requests) == 2


async def test_a_task_too_long_for_the_log_reaches_the_model_whole(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    task = "żółw " * 60_000  # more than the 256 KiB that stay in the log
    model_server.reply_with(say_who)
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice")), task, max_rounds=1)
    await mesh.settled(conversation)
    [request] = model_server.requests
    assert any(task in str(message.get("content")) for message in request["messages"])
    [(_, logged), *_] = await mesh.texts(conversation)
    assert len(logged) < len(task) // 10


async def test_a_run_waits_for_its_tenants_next_day_and_goes_on_when_there_is_more(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say_who)
    mesh = await start_mesh()
    # Room for what the first reply may have, and then not for what the second may.
    await mesh.allow_a_day(max_tokens=110)
    brief = agent("alice", llm_config={"model": "test-model", "max_tokens": 100})
    conversation = await mesh.begin(team(brief), "begin", max_rounds=2)
    async with asyncio.timeout(60):
        while (shown := await mesh.conversation(conversation)).run.turn < 1:
            await asyncio.sleep(0.02)
    await asyncio.sleep(1)
    shown = await mesh.conversation(conversation)
    assert (shown.run.turn, shown.run.attempt) == (1, 0)
    assert shown.status == conversation_pb2.CONVERSATION_STATUS_RUNNING
    await mesh.allow_a_day(max_tokens=1_000_000)
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == MAX_ROUNDS
    assert list((await mesh.usage_by_model()).values()) == [ended.usage]
    assert "" not in await mesh.usage_by_model()
