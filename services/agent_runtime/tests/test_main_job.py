"""The main job on real processes: the shipped team, the scripted model, real tools in a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh_agent_runtime.definitions.shipped import load_definitions

from services.agent_runtime.tests.real_mesh import RealMesh


@pytest_asyncio.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[RealMesh]:
    mesh = RealMesh(tmp_path)
    await mesh.start(tools=True)
    yield mesh
    await mesh.close()


async def test_the_script_does_the_main_job_with_real_tools(mesh: RealMesh) -> None:
    shipped = load_definitions()
    spec = next(t for t in shipped.teams if t.id == "software_development")
    spec = spec.model_copy(update={"participants": shipped.agents})
    task = "write a function that parses ISO-8601 durations, test it, review it"
    conversation = await mesh.begin(spec, task)
    ended = await mesh.settled(conversation, within=120)
    said = "\n".join(f"{who}: {text}" for who, text in await mesh.texts(conversation))
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_TERMINATED, said
    assert "5 tests fail" in said
    assert "All 18 tests pass" in said
    assert "APPROVED" in said
    assert ended.summary.startswith("Done: durations.py")
    assert "[x] #3" in ended.summary


async def test_a_runtime_killed_at_work_repeats_no_tool_call(mesh: RealMesh) -> None:
    """The tools of the shipped script leave their calls in the log, one result for each."""
    shipped = load_definitions()
    spec = next(t for t in shipped.teams if t.id == "software_development")
    spec = spec.model_copy(update={"participants": shipped.agents})
    conversation = await mesh.begin(spec, "parse ISO-8601 durations, test it, review it")
    for results in (1, 3, 5):
        async with asyncio.timeout(60):
            while sum(len(r) for r in (await _results(mesh, conversation)).values()) < results:
                await asyncio.sleep(0.01)
        await mesh.runtimes[0].restart()
    ended = await mesh.settled(conversation, within=120)
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_TERMINATED, ended.run.detail
    found = await _results(mesh, conversation)
    assert all(len(outputs) == 1 for outputs in found.values()), "a call was recorded twice"
    runs = [o for call in found.values() for o in call if "exit code" in o]
    assert len(runs) == 2
    assert "5 failed" in runs[0]
    assert "18 passed" in runs[1]


async def _results(mesh: RealMesh, conversation: str) -> dict[str, list[str]]:
    """What each tool call was answered, by call id."""
    found: dict[str, list[str]] = {}
    for event in await mesh.events(conversation):
        for part in event.message.parts:
            if part.HasField("tool_result"):
                result = part.tool_result
                found.setdefault(result.tool_call_id, []).append(result.output)
    return found
