"""A conversation is steered while it runs: pause and resume, messages by strategy, other limits,
a retry after a failure. Over both edges, with real services behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from agentmesh.catalog.v1 import agent_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2

from tests.support.conversations import assert_dense, follow, messages_of, run_end
from tests.support.edges import Edge, GrpcEdge, Refused, RestEdge
from tests.support.mesh import Mesh
from tests.support.model_server import Fault, ModelServer, Reply
from tests.support.people import start_asking

AGENTS = ("reviewer", "project_manager")
COMPLETED = conversation_pb2.RUN_STATUS_COMPLETED
FAILED = conversation_pb2.RUN_STATUS_FAILED


@pytest_asyncio.fixture(params=["grpc", "rest"])
async def edge(model_mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[Edge]:
    """Where people speak to the mesh."""
    if request.param == "grpc":
        yield GrpcEdge(model_mesh)
        return
    async with httpx.AsyncClient(base_url=model_mesh.rest_url, timeout=20) as http:
        yield RestEdge(http)


@pytest.fixture(autouse=True)
def numbered(model_server: ModelServer) -> None:
    """Replies are told apart by their numbers."""
    model_server.reply_with(lambda body, number: Reply(f"reply {number}"))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something to become true."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def reaches(edge: Edge, name: str, status: str) -> None:
    """Waits for the conversation's status."""
    async with asyncio.timeout(20):
        while (await edge.get(name))["status"] != status:
            await asyncio.sleep(0.02)


async def started(mesh: Mesh, task: str = "begin", **fields: Any) -> str:
    """A conversation's id."""
    return (await mesh.start_conversation(task, AGENTS, **fields)).conversation_id


def said(events: list[event_pb2.Event]) -> list[str]:
    """What counts of what was said."""
    return [message.content for message in messages_of(events)]


def heard(body: dict[str, Any]) -> list[str]:
    """What the model was told, without its instructions."""
    return [str(m["content"]) for m in body["messages"] if m["role"] != "system"]


async def stays_quiet(model_server: ModelServer) -> None:
    """Nobody asks the model for a while."""
    before = len(model_server.requests)
    await asyncio.sleep(1)
    assert len(model_server.requests) == before


# --- pause and resume ----------------------------------------------------------------------------


async def test_a_pause_in_mid_turn_lets_the_turn_end(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    model_server.hold()
    name = await started(model_mesh, max_rounds=3)
    await until(lambda: model_server.held == 1)
    await edge.act(name, "pause")
    model_server.release()
    await reaches(edge, name, "paused")
    await stays_quiet(model_server)
    assert len(model_server.requests) == 1
    await edge.act(name, "resume")
    events = await follow(model_mesh.channel(), name)
    assert_dense(events)
    assert said(events) == ["begin", "reply 1", "reply 2", "reply 3"]
    with pytest.raises(Refused, match="ALREADY_ENDED"):
        await edge.act(name, "pause")


async def test_a_pause_that_is_taken_back_in_mid_turn_stops_nothing(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    model_server.hold()
    name = await started(model_mesh, max_rounds=2)
    await until(lambda: model_server.held == 1)
    await edge.act(name, "pause")
    await edge.act(name, "resume")
    model_server.release()
    events = await follow(model_mesh.channel(), name)
    assert said(events) == ["begin", "reply 1", "reply 2"]


async def test_a_pause_before_any_runtime_took_it(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    await model_mesh.kill("agent_runtime")
    name = await started(model_mesh, max_rounds=1)
    await edge.act(name, "pause")
    assert (await edge.get(name))["status"] == "paused"
    await model_mesh.restart("agent_runtime")
    await stays_quiet(model_server)
    await edge.act(name, "resume")
    assert said(await follow(model_mesh.channel(), name)) == ["begin", "reply 1"]


async def test_a_pause_while_a_person_is_waited_for(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    name = await asking(model_mesh)
    await reaches(edge, name, "waiting")
    await edge.act(name, "pause")
    await edge.act(name, "resume")
    await reaches(edge, name, "waiting")
    await edge.act(name, "pause")
    await edge.send(name, "go on")
    assert (await edge.get(name))["status"] == "paused"
    await stays_quiet(model_server)
    await edge.act(name, "resume")
    await until(lambda: len(model_server.requests) == 2)
    assert heard(model_server.requests[1]) == ["begin", "reply 1", "go on"]
    await edge.act(name, "cancel")


async def asking(mesh: Mesh) -> str:
    """A conversation whose only agent waits for a person after each turn."""
    return await start_asking(mesh, agent_pb2.HUMAN_INPUT_MODE_ALWAYS)


# --- messages by strategy ------------------------------------------------------------------------


async def test_after_the_turn(model_mesh: Mesh, model_server: ModelServer, edge: Edge) -> None:
    model_server.hold()
    name = await started(model_mesh, max_rounds=2)
    await until(lambda: model_server.held == 1)
    await edge.send(name, "more", "after_turn")
    model_server.release()
    events = await follow(model_mesh.channel(), name)
    assert sorted(said(events)) == ["begin", "more", "reply 1", "reply 2"]
    assert heard(model_server.requests[1]) == ["begin", "reply 1", "more"]


async def test_interrupt_now(model_mesh: Mesh, model_server: ModelServer, edge: Edge) -> None:
    model_server.hold()
    name = await started(model_mesh, max_rounds=1)
    await until(lambda: model_server.held == 1)
    await edge.send(name, "stop that", "interrupt")
    await until(lambda: len(model_server.requests) == 2 and model_server.held == 1)
    model_server.release()
    events = await follow(model_mesh.channel(), name)
    assert_dense(events)
    assert said(events) == ["begin", "stop that", "reply 2"]
    assert heard(model_server.requests[1]) == ["begin", "stop that"]
    assert sum(event.HasField("turn_discarded") for event in events) == 1


async def test_replace_the_turn(model_mesh: Mesh, model_server: ModelServer, edge: Edge) -> None:
    model_server.fail_next(None, Fault(stream="stall", after_chunks=1))
    name = await started(model_mesh, max_rounds=2)
    await until(lambda: len(model_server.requests) == 2 and model_server.open_streams == 1)
    await edge.send(name, "not like that", "replace_turn")
    events = await follow(model_mesh.channel(), name)
    assert_dense(events)
    assert heard(model_server.requests[2]) == ["begin", "not like that"]
    assert said(events) == ["begin", "not like that", "reply 3", "reply 4"]
    assert model_server.open_streams == 0


async def test_replace_the_turn_after_which_a_person_is_waited_for(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    name = await asking(model_mesh)
    await reaches(edge, name, "waiting")
    await edge.send(name, "not like that", "replace_turn")
    await until(lambda: len(model_server.requests) == 2)
    assert heard(model_server.requests[1]) == ["begin", "not like that"]
    await edge.act(name, "cancel")


async def test_reject_if_running(model_mesh: Mesh, model_server: ModelServer, edge: Edge) -> None:
    model_server.hold()
    name = await started(model_mesh, max_rounds=1)
    await until(lambda: model_server.held == 1)
    with pytest.raises(Refused, match="RUN_UNDER_WAY"):
        await edge.send(name, "only if you are free", "reject_if_running")
    model_server.release()
    events = await follow(model_mesh.channel(), name)
    assert said(events) == ["begin", "reply 1"]
    await edge.send(name, "and now?", "reject_if_running")
    events = await follow(model_mesh.channel(), name)
    assert said(events) == ["begin", "reply 1", "and now?", "reply 2"]


# --- limits --------------------------------------------------------------------------------------


async def test_more_rounds_in_the_last_one(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    model_server.hold()
    name = await started(model_mesh, max_rounds=1)
    await until(lambda: model_server.held == 1)
    await edge.update(name, "max_rounds", max_rounds=3)
    model_server.release()
    events = await follow(model_mesh.channel(), name)
    assert said(events) == ["begin", "reply 1", "reply 2", "reply 3"]
    assert run_end(events).reason == conversation_pb2.RUN_END_REASON_MAX_ROUNDS


async def test_fewer_rounds_than_were_taken(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    model_server.fail_next(None, Fault(stream="stall", after_chunks=1))
    name = await started(model_mesh, max_rounds=9)
    await until(lambda: len(model_server.requests) == 2 and model_server.open_streams == 1)
    await edge.update(name, "max_rounds", max_rounds=1)
    await edge.send(name, "interrupted", "interrupt")
    events = await follow(model_mesh.channel(), name)
    assert run_end(events).reason == conversation_pb2.RUN_END_REASON_MAX_ROUNDS
    assert len([text for text in said(events) if text.startswith("reply")]) <= 2


async def test_a_budget_that_is_used_up_is_raised_and_the_conversation_resumed(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    name = await started(model_mesh, max_rounds=2, budget={"max_tokens": 5})
    events = await follow(model_mesh.channel(), name)
    assert run_end(events).status == FAILED
    assert run_end(events).reason == conversation_pb2.RUN_END_REASON_BUDGET
    await edge.update(name, "budget", budget={"max_tokens": 1_000_000})
    await edge.act(name, "resume")
    events = await follow(model_mesh.channel(), name)
    assert run_end(events).status == COMPLETED
    assert said(events)[0] == "begin"
    assert len(said(events)) == 3


async def test_a_budget_below_what_is_used_ends_it(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    model_server.fail_next(None, Fault(stream="stall", after_chunks=1))
    name = await started(model_mesh, max_rounds=9)
    await until(lambda: len(model_server.requests) == 2 and model_server.open_streams == 1)
    await edge.update(name, "budget", budget={"max_tokens": 1})
    await edge.send(name, "interrupted", "interrupt")
    events = await follow(model_mesh.channel(), name)
    assert run_end(events).status == FAILED
    assert run_end(events).reason == conversation_pb2.RUN_END_REASON_BUDGET
    assert len(model_server.requests) == 2


# --- failures and forks --------------------------------------------------------------------------


async def test_a_failed_run_is_retried_from_its_last_good_turn(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    model_server.fail_next(None, Fault(status=401, message="wrong key"))
    name = await started(model_mesh, max_rounds=3)
    events = await follow(model_mesh.channel(), name)
    assert run_end(events).reason == conversation_pb2.RUN_END_REASON_MODEL_CREDENTIALS
    await edge.act(name, "resume")
    events = await follow(model_mesh.channel(), name)
    assert_dense(events)
    assert run_end(events).status == COMPLETED
    assert heard(model_server.requests[2]) == heard(model_server.requests[1])
    assert said(events) == ["begin", "reply 1", "reply 3", "reply 4"]
    assert run_end(events).reason == conversation_pb2.RUN_END_REASON_MAX_ROUNDS
    with pytest.raises(Refused, match="ALREADY_ENDED"):
        await edge.act(name, "resume")


async def test_a_team_with_stages_is_retried_in_the_stage_that_failed(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    model_server.fail_next(None, Fault(status=401, message="wrong key"))
    response = await model_mesh.start_conversation("begin", workflow="software_development")
    name = response.conversation_id
    await follow(model_mesh.channel(), name)
    await edge.act(name, "resume")
    await until(lambda: len(model_server.requests) >= 3)
    await edge.act(name, "cancel")
    assert "Stage: development" in str(model_server.requests[1]["messages"])
    assert "Stage: development" in str(model_server.requests[2]["messages"])


async def test_a_fork_of_any_event_goes_its_own_way(
    model_mesh: Mesh, model_server: ModelServer, edge: Edge
) -> None:
    name = await started(model_mesh, max_rounds=2)
    whole = await follow(model_mesh.channel(), name)
    for event in whole:
        fork = (await edge.act(name, "fork", at_sequence=event.sequence))["conversation"]
        asked = len(model_server.requests)
        await edge.send(fork["conversation_id"], "another way")
        events = await follow(model_mesh.channel(), fork["conversation_id"])
        assert_dense(events)
        assert run_end(events).status == COMPLETED
        kept = whole[: event.sequence]
        committed = [e.turn for e in kept if e.HasField("turn_committed")]
        before = ["begin", "reply 1", "reply 2"][: 1 + len(committed)]
        began = [e for e in kept if e.HasField("message")]
        expected = [*(before if began else []), "another way"]
        assert heard(model_server.requests[asked]) == expected, event
    assert await follow(model_mesh.channel(), name) == whole
