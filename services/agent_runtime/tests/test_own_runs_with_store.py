"""Teams with runs of their own, on several runtimes in real processes."""

from __future__ import annotations

import asyncio

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh_agent_runtime.definitions.specs import EdgeSpec, GraphSpec, TeamKind, TeamSpec

from services.agent_runtime.tests.real_mesh import RealMesh, StartMesh
from services.agent_runtime.tests.test_own_runs import desk, research, say
from services.agent_runtime.tests.test_team_kinds import member
from tests.support.model_server import Fault, ModelServer, Reply

COMPLETED = conversation_pb2.CONVERSATION_STATUS_COMPLETED
CANCELLED = conversation_pb2.CONVERSATION_STATUS_CANCELLED


def halves() -> TeamSpec:
    """Two teams that work at the same time, and somebody who hears both."""
    edges = (EdgeSpec(source="left", target="end"), EdgeSpec(source="right", target="end"))
    members = (research(id="left"), research(id="right"), member("end"))
    return desk(*members, kind=TeamKind.GRAPH, graph=GraphSpec(edges=edges))


async def _told(mesh: RealMesh, conversation: str) -> list[tuple[str, str]]:
    """What was said; teams that work at the same time are not in order."""
    return sorted(await mesh.texts(conversation))


async def _runs_that_began(mesh: RealMesh, conversation: str) -> list[str]:
    log = await mesh.events(conversation)
    return [event.agent for event in log if event.HasField("run_started")]


async def _asked_at_once(server: ModelServer, count: int) -> None:
    async with asyncio.timeout(30):
        while len(server.requests) < count:
            await asyncio.sleep(0.01)


async def test_runs_of_one_turn_go_to_other_replicas(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    """Each runtime takes one turn at a time, and both teams are at work at once."""
    model_server.reply_with(say)
    model_server.gate.clear()
    mesh = await start_mesh(runtimes=2, AGENTMESH_MAX_TURNS="1")
    conversation = await mesh.begin(halves(), "begin")
    await _asked_at_once(model_server, 2)
    working = [len(await mesh.active_turns(runtime)) for runtime in mesh.runtimes]
    assert working == [1, 1]
    model_server.gate.set()
    ended = await mesh.settled(conversation)
    assert ended.status == COMPLETED, ended.run.detail
    assert sorted(await _runs_that_began(mesh, conversation)) == ["", "left", "right"]
    said = [who for who, _ in await _told(mesh, conversation)]
    wanted = ["end", "left/alice", "left/bob", "right/alice", "right/bob", "user", "user", "user"]
    assert said == wanted
    assert ended.usage.model_calls == 5


async def test_killed_runtimes_change_nothing_that_is_told(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say)
    mesh = await start_mesh(runtimes=2)
    calm = await mesh.begin(halves(), "begin")
    await mesh.settled(calm)
    asked = len(model_server.requests)
    model_server.delay = 0.2
    killed = await mesh.begin(halves(), "begin")
    for number, calls in enumerate((1, 3, 5)):
        async with asyncio.timeout(30):
            while len(model_server.requests) < asked + calls:
                await asyncio.sleep(0.01)
        await mesh.runtimes[number % 2].restart()
    after = await mesh.settled(killed)
    assert after.status == COMPLETED, after.run.detail
    assert await _told(mesh, killed) == await _told(mesh, calm)
    assert sorted(await _runs_that_began(mesh, killed)) == ["", "left", "right"]


async def test_a_run_that_fails_ends_the_others(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say)
    model_server.fail_next(Fault(status=400, message="no such thing"))
    mesh = await start_mesh()
    conversation = await mesh.begin(halves(), "begin")
    ended = await mesh.settled(conversation)
    assert ended.status == conversation_pb2.CONVERSATION_STATUS_FAILED
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_MODEL_ERROR
    assert "no such thing" in ended.run.detail
    assert ended.run.detail.startswith(("left: ", "right: "))


async def test_a_cancelled_conversation_ends_its_runs_at_once(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(Reply("word " * 10_000))
    model_server.chunk_delay = 0.1
    mesh = await start_mesh()
    conversation = await mesh.begin(halves(), "begin")
    async with asyncio.timeout(30):
        while model_server.open_streams < 2:
            await asyncio.sleep(0.01)
    await mesh.cancel(conversation)
    assert (await mesh.settled(conversation)).status == CANCELLED
    async with asyncio.timeout(30):
        while model_server.open_streams:
            await asyncio.sleep(0.01)
    log = await mesh.events(conversation)
    ends = [event.agent for event in log if event.HasField("run_ended")]
    assert sorted(ends) == ["", "left", "right"]
    assert ends[-1] == ""


async def test_a_budget_binds_all_runs_together(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say)
    mesh = await start_mesh()
    conversation = await mesh.begin(halves(), "begin", max_tokens=100)
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_BUDGET
    assert ended.usage.input_tokens + ended.usage.output_tokens <= 100


async def test_a_run_that_the_store_will_not_start_ends_with_why(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(say)
    mesh = await start_mesh()
    nested = research(id="depth_9")
    for depth in range(8, 0, -1):
        nested = desk(nested, id=f"depth_{depth}", own_run=True)
    conversation = await mesh.begin(desk(nested), "begin")
    ended = await mesh.settled(conversation)
    assert ended.status == conversation_pb2.CONVERSATION_STATUS_FAILED
    assert "nested 8 deep" in ended.run.detail


async def test_runs_with_more_to_read_than_a_message_holds_are_started_in_turns(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(Reply("read"))
    mesh = await start_mesh()
    readers = [research(id=f"reader_{number}", max_rounds=1) for number in range(17)]
    edges = tuple(EdgeSpec(source=reader.id, target="end") for reader in readers)
    spec = desk(*readers, member("end"), kind=TeamKind.GRAPH, graph=GraphSpec(edges=edges))
    conversation = await mesh.begin(spec, "long " * 60_000)
    ended = await mesh.settled(conversation)
    assert ended.status == COMPLETED, ended.run.detail
    assert ended.usage.model_calls == len(readers) + 1
