"""A run's chain of checkpoints outlives its worker: real processes, killed in the middle."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh_agent_runtime.turns.checkpoints import DIFFERENCE, WHOLE, Checkpoint, decode
from agentmesh_agent_runtime.turns.grant import SavedCheckpoint

from services.agent_runtime.tests.memory_world import agent, team, timeless
from services.agent_runtime.tests.real_mesh import RealMesh
from tests.support.model_server import ModelServer, Reply

MAX_ROUNDS = conversation_pb2.RUN_END_REASON_MAX_ROUNDS
TEAM = team(agent("alice"), agent("bob"), agent("carol"))
StartMesh = Callable[[], Awaitable[RealMesh]]


@pytest_asyncio.fixture
async def start_mesh(tmp_path: Path, model_server: ModelServer) -> AsyncIterator[StartMesh]:
    mesh = RealMesh(tmp_path, OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=model_server.base_url)

    async def start() -> RealMesh:
        await mesh.start()
        return mesh

    yield start
    await mesh.close()


def committed_of(mesh: RealMesh, conversation_id: str) -> list[SavedCheckpoint]:
    """Every checkpoint that lies in the store, by turn."""
    path = mesh.store.folder / "data" / "store.sqlite3"
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = database.execute(
            "SELECT checkpoint_id, data, encoding, base_id FROM checkpoints"
            " WHERE conversation_id = ? ORDER BY turn",
            (conversation_id,),
        ).fetchall()
    finally:
        database.close()
    return [SavedCheckpoint(*row) for row in rows]


def chain_of(saved: list[SavedCheckpoint]) -> list[SavedCheckpoint]:
    """The newest checkpoint with those that it follows."""
    first = max(index for index, one in enumerate(saved) if one.encoding == WHOLE)
    return saved[first:]


def without_ids(checkpoint: Checkpoint) -> Any:
    return timeless({"state": checkpoint.state, "run_from": checkpoint.run_from})


async def requests_reach(model_server: ModelServer, count: int) -> None:
    async with asyncio.timeout(60):
        while len(model_server.requests) < count:
            await asyncio.sleep(0.01)


async def test_another_runtime_goes_on_from_the_chain_of_a_killed_one(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    """Once undisturbed, once with a SIGKILL: both end in the same state."""

    def heard(body: dict[str, Any], number: int) -> Reply:
        said = [str(message.get("content")) for message in body["messages"]]
        words = random.Random(" ".join(said)).choices(string.ascii_lowercase, k=300)
        return Reply(f"I heard {len(said)} messages. " + "".join(words))

    model_server.reply_with(heard)
    mesh = await start_mesh()
    undisturbed = await mesh.begin(TEAM, "begin", max_rounds=9)
    assert (await mesh.settled(undisturbed)).run.end_reason == MAX_ROUNDS

    before = len(model_server.requests)
    model_server.delay = 0.3
    disturbed = await mesh.begin(TEAM, "begin", max_rounds=9)
    await requests_reach(model_server, before + 6)
    killed = mesh.runtimes[0]
    await killed.sigkill()
    chain = chain_of(committed_of(mesh, disturbed))
    assert [one.encoding for one in chain][-1] == DIFFERENCE, "the kill is to fall into a chain"
    successor = await mesh.add_runtime()
    ended = await mesh.settled(disturbed)
    assert ended.run.end_reason == MAX_ROUNDS, successor.log()

    assert await mesh.texts(disturbed) == await mesh.texts(undisturbed)
    states = [
        decode(chain_of(committed_of(mesh, conversation)))[0]
        for conversation in (undisturbed, disturbed)
    ]
    assert without_ids(states[0]) == without_ids(states[1])
    links = committed_of(mesh, disturbed)
    assert len(links) == 9
    for before_it, link in pairwise(links):
        assert link.base_checkpoint_id in ("", before_it.checkpoint_id)


async def test_a_chain_too_large_for_a_grant_is_read_by_the_next_runtime(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    letters = string.ascii_letters + string.digits

    def long(body: dict[str, Any], number: int) -> Reply:
        return Reply("".join(random.Random(number).choices(letters, k=90_000)))

    model_server.reply_with(long)
    mesh = await start_mesh()
    conversation = await mesh.begin(TEAM, "begin", max_rounds=20)
    await requests_reach(model_server, 14)
    model_server.delay = 0.5
    async with asyncio.timeout(60):
        while sum(len(one.data) for one in chain_of_if_any(mesh, conversation)) <= 1 << 20:
            await asyncio.sleep(0.2)
    await mesh.runtimes[0].sigkill()
    successor = await mesh.add_runtime()
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == MAX_ROUNDS, successor.log()
    checkpoint, _ = decode(chain_of(committed_of(mesh, conversation)))
    agents = checkpoint.state["agent_states"]
    (manager,) = (state for name, state in agents.items() if "message_thread" in state)
    assert len(manager["message_thread"]) == 1 + 20


def chain_of_if_any(mesh: RealMesh, conversation_id: str) -> list[SavedCheckpoint]:
    saved = committed_of(mesh, conversation_id)
    return chain_of(saved) if saved else []
