"""Kinds of teams in real processes: a runtime that is killed twice changes nothing that is told."""

from __future__ import annotations

import asyncio

import pytest

from services.agent_runtime.tests.real_mesh import RealMesh, StartMesh
from services.agent_runtime.tests.test_team_kinds import KINDS
from tests.support.model_server import ModelServer


async def _told(mesh: RealMesh, conversation: str) -> list[tuple[int, str, str]]:
    """What agents said, by turns; members that speak at the same time are not in order."""
    log = await mesh.events(conversation)
    return sorted((e.turn, e.agent, e.message.content) for e in log if e.HasField("message"))


@pytest.mark.parametrize("kind", ["swarm", "fan-out and join", "cycle", "magentic one"])
async def test_a_killed_runtime_changes_nothing_that_is_told(
    start_mesh: StartMesh, model_server: ModelServer, kind: str
) -> None:
    spec, reply = KINDS[kind]
    model_server.reply_with(reply)
    mesh = await start_mesh()
    calm = await mesh.begin(spec, "begin", max_rounds=8)
    ended = await mesh.settled(calm)
    asked = len(model_server.requests)
    model_server.delay = 0.2
    killed = await mesh.begin(spec, "begin", max_rounds=8)
    for calls in (2, asked - 1):
        async with asyncio.timeout(30):
            while len(model_server.requests) < asked + calls:
                await asyncio.sleep(0.01)
        await mesh.runtimes[0].restart()
    after = await mesh.settled(killed)
    assert (after.status, after.summary) == (ended.status, ended.summary), mesh.runtimes[0].log()
    assert after.run.end_reason == ended.run.end_reason
    assert await _told(mesh, killed) == await _told(mesh, calm)
    # A kill between a reply and its record may cost that one call again: two speak at once at most.
    assert len(model_server.requests) <= 2 * asked + 4
