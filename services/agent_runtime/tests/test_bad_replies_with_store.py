"""Runs whose models never answer as they should, to their end in a real mesh."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh.conversation.v1 import conversation_pb2 as pb2

from services.agent_runtime.tests.memory_world import agent, team
from services.agent_runtime.tests.real_mesh import RealMesh, StartMesh
from tests.support.model_server import Fault, ModelServer, Reply

LONG = Reply("one two three four five six")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=400, message="no such parameter"), "MODEL_ERROR"),
        (Fault(status=403, message="no such project"), "MODEL_CREDENTIALS"),
    ],
)
async def test_a_refused_request_ends_the_run_with_its_reason(
    start_mesh: StartMesh, model_server: ModelServer, fault: Fault, reason: str
) -> None:
    model_server.fail_next(*[fault] * 100)
    mesh = await start_mesh()
    ended = await _ended(mesh)
    assert ended.run.end_reason == pb2.RunEndReason.Value(f"RUN_END_REASON_{reason}")
    assert fault.message in ended.run.detail
    assert len(model_server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "fault", "reason", "detail"),
    [
        (LONG, Fault(status=503, headers={"Retry-After": "0"}), "MODEL_ERROR", "HTTP 503"),
        (LONG, Fault(stream="cut", after_chunks=3), "MODEL_ERROR", "no JSON"),
        (LONG, Fault(stream="pings", after_chunks=3), "STALLED", "no progress"),
        (Reply(""), None, "MODEL_ERROR", "empty reply"),
    ],
)
async def test_what_may_pass_is_attempted_again_and_ends_the_run_if_it_does_not(
    start_mesh: StartMesh,
    model_server: ModelServer,
    reply: Reply,
    fault: Fault | None,
    reason: str,
    detail: str,
) -> None:
    model_server.reply_with(reply)
    model_server.fail_next(*[fault] * 100)
    mesh = await start_mesh(AGENTMESH_STALL_SECONDS="1" if reason == "STALLED" else "60")
    ended = await _ended(mesh)
    assert ended.run.end_reason == pb2.RUN_END_REASON_ATTEMPTS_EXHAUSTED
    assert detail in ended.run.detail
    events = await mesh.events(ended.conversation_id)
    failed = [e.attempt_failed for e in events if e.HasField("attempt_failed")]
    assert failed
    assert {pb2.RunEndReason.Name(f.reason) for f in failed} == {f"RUN_END_REASON_{reason}"}


async def test_an_endless_reply_ends_the_run(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(Reply(chunks=("word " * 1000,) * 1000))
    mesh = await start_mesh(AGENTMESH_MAX_REPLY_CHARS="100000")
    ended = await _ended(mesh)
    assert ended.run.end_reason == pb2.RUN_END_REASON_MODEL_ERROR
    assert "longer than 100000" in ended.run.detail


async def _ended(mesh: RealMesh) -> pb2.Conversation:
    """A run of one agent that fails, without anything that was said."""
    conversation = await mesh.begin(team(agent("alice")))
    ended = await mesh.settled(conversation, within=180)
    assert ended.status == pb2.CONVERSATION_STATUS_FAILED
    assert [who for who, _ in await mesh.texts(conversation)] == ["user"]
    return ended


@pytest.mark.parametrize("counts", [(-5, -7), (10**30, 10**30), ("x", None)])
async def test_what_can_be_mended_is_mended(
    start_mesh: StartMesh, model_server: ModelServer, counts: tuple[Any, Any]
) -> None:
    model_server.reply_with(Reply(chunks=("a \ud83d", "\ude00\x00 b \ud83d"), counts=counts))
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice")), max_rounds=1)
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == pb2.RUN_END_REASON_MAX_ROUNDS, mesh.runtimes[0].log()
    assert ended.summary == "a \U0001f600\x00 b \ufffd"
    assert ended.usage.estimated
    assert 0 < ended.usage.output_tokens < 1000
    assert ended.run.attempt == 0
