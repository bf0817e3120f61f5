"""Summaries of contexts in the log of a real store, with a runtime that is killed around them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2, event_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2

from services.agent_runtime.tests.memory_world import agent, team
from services.agent_runtime.tests.real_mesh import RealMesh
from services.agent_runtime.tests.test_contexts import is_summary, remember
from tests.support.model_server import Fault, ModelServer

KEEP = 2
CONTEXT = {"summarizing": {"max_tokens": 190, "keep": KEEP}}
TEAM = team(*(agent(name, context=CONTEXT) for name in ("alice", "bob")))
MAX_ROUNDS = conversation_pb2.RUN_END_REASON_MAX_ROUNDS


@pytest_asyncio.fixture
async def mesh(tmp_path: Path, model_server: ModelServer) -> AsyncIterator[RealMesh]:
    started = RealMesh(tmp_path, OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=model_server.base_url)
    await started.start()
    yield started
    await started.close()


def summaries(events: Sequence[event_pb2.Event]) -> list[event_pb2.Event]:
    return [event for event in events if event.HasField("context_summary")]


def told(events: Sequence[event_pb2.Event]) -> list[tuple[str, str, int]]:
    """What was said and summarised, in the order of the log, and how much a summary stands for."""
    said = [e for e in events if e.HasField("message") or e.HasField("context_summary")]
    return [
        (
            event.agent,
            event.message.content or event.context_summary.text,
            sum(e.sequence <= event.context_summary.last_sequence for e in said),
        )
        for event in said
    ]


@pytest.mark.parametrize("moment", ["asked for", "recorded"])
async def test_a_killed_runtime_makes_no_summary_twice(
    mesh: RealMesh, model_server: ModelServer, moment: str
) -> None:
    model_server.reply_with(remember)
    undisturbed = await mesh.begin(TEAM, "saying 0", max_rounds=9)
    await mesh.settled(undisturbed)
    expected = told(await mesh.events(undisturbed))
    calls = len(model_server.requests)

    model_server.delay = 0.4
    conversation = await mesh.begin(TEAM, "saying 0", max_rounds=9)
    async with asyncio.timeout(40):
        if moment == "recorded":
            while not summaries(await mesh.events(conversation)):
                await asyncio.sleep(0.01)
        else:
            while not any(map(is_summary, model_server.requests[calls:])):
                await asyncio.sleep(0.01)
    await mesh.runtimes[0].restart()
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == MAX_ROUNDS, mesh.runtimes[0].log()

    log = await mesh.events(conversation)
    assert told(log) == expected
    again = model_server.requests[calls:]
    made = [json.dumps(body["messages"]) for body in again if is_summary(body)]
    if moment == "recorded":
        assert len(made) == len(set(made)) == len(summaries(log))
    # A reply that was under way when the runtime was killed is asked for once more, and only that.
    assert len(again) <= calls + 1
    # What was under way when the runtime was killed is charged as well.
    assert calls <= ended.usage.model_calls <= calls + 1


async def test_the_log_as_context_tells_a_summary_and_all_that_stays(
    mesh: RealMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(remember)
    conversation = await mesh.begin(TEAM, "saying 0", max_rounds=9)
    await mesh.settled(conversation)
    log = await mesh.events(conversation)
    for event in summaries(log):
        said_before = [e for e in log if e.HasField("message") and e.sequence < event.sequence]
        assert event.context_summary.last_sequence < said_before[-KEEP].sequence
    newest = summaries(log)[-1]
    assert newest.context_summary.first_sequence == 1
    assert newest.context_summary.last_sequence > summaries(log)[0].context_summary.last_sequence
    view = await mesh.events(conversation, store_pb2.EVENT_VIEW_CONTEXT)
    assert view[0] == newest
    assert [e for e in view if e.HasField("message")] == [
        e
        for e in log
        if e.HasField("message") and e.sequence > newest.context_summary.last_sequence
    ]
    # Nothing is lost of what the summaries tell of.
    assert [e.sequence for e in log] == list(range(1, len(log) + 1))


async def test_a_summary_that_the_model_refuses_ends_the_run(
    mesh: RealMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(remember)
    context = {"summarizing": {"max_tokens": 40, "keep": 1}}
    member = agent("alice", context=context)
    model_server.fail_next(None, Fault(status=400, message="too long"))
    conversation = await mesh.begin(team(member), "saying 0", max_rounds=3)
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_MODEL_ERROR
    assert "too long" in ended.run.detail
    assert not summaries(await mesh.events(conversation))
