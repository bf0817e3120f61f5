"""A run's budget of tokens, held before a model is asked and while it answers."""

from __future__ import annotations

from pathlib import Path

from agentmesh.conversation.v1 import conversation_pb2

from services.agent_runtime.tests.memory_world import agent, team
from services.agent_runtime.tests.real_mesh import StartMesh
from tests.support.model_server import Fault, ModelServer, Reply

BUDGET = conversation_pb2.RUN_END_REASON_BUDGET
FAILED = conversation_pb2.CONVERSATION_STATUS_FAILED


def _tokens(conversation: conversation_pb2.Conversation) -> int:
    return conversation.usage.input_tokens + conversation.usage.output_tokens


async def test_a_budget_stops_a_reply_in_its_middle(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(Reply("word " * 4000))
    model_server.chunk_delay = 0.005
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice")), "begin", max_tokens=150)
    ended = await mesh.settled(conversation, within=10)
    assert ended.run.end_reason == BUDGET
    assert "stopped" in ended.run.detail
    assert 0 < _tokens(ended) <= 150
    assert ended.usage.estimated


async def test_a_model_is_not_asked_for_what_nothing_is_left_for(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(Reply("one two three"))
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice")), "begin " * 100, max_tokens=100)
    ended = await mesh.settled(conversation)
    assert (ended.status, ended.run.end_reason) == (FAILED, BUDGET)
    assert not model_server.requests
    assert _tokens(ended) == 0


async def test_replies_fit_into_what_is_left_until_nothing_is(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(Reply("a few words " * 5))
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("a"), agent("b")), "go", max_tokens=400)
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == BUDGET
    assert len(model_server.requests) > 2
    assert _tokens(ended) <= 400


async def test_calls_that_fail_cost_nothing(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    """More than the runtime repeats by itself, so that another attempt takes the step over."""
    model_server.reply_with(Reply("done TERMINATE"))
    for _ in range(4):
        model_server.fail_next(Fault(status=500))
    mesh = await start_mesh()
    conversation = await mesh.begin(team(agent("alice")), "begin")
    ended = await mesh.settled(conversation)
    assert ended.status == conversation_pb2.CONVERSATION_STATUS_COMPLETED
    assert len(model_server.requests) > 4
    assert ended.usage.model_calls == 1
    assert not ended.usage.estimated


PRICED = """
dear:
  provider: openai
  model: test-model
  base_url: {url}
  max_tokens: 100
  input_price_micros: 1000000
  output_price_micros: 2000000
"""


async def test_a_budget_of_money_holds(
    start_mesh: StartMesh, model_server: ModelServer, tmp_path: Path
) -> None:
    """A reply may cost 200 millionths: until less than that is left, it is asked for."""
    model_server.reply_with(Reply("a few words"))
    (tmp_path / "models.yaml").write_text(PRICED.format(url=model_server.base_url))
    mesh = await start_mesh(AGENTMESH_MODELS_FILE=str(tmp_path / "models.yaml"))
    spec = team(agent("alice", llm_config={"profile": "dear"}))
    conversation = await mesh.begin(spec, "begin", max_cost_micros=230)
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == BUDGET
    assert model_server.requests
    assert 0 < ended.usage.cost_micros <= 230
