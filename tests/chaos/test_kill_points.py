"""G3, G4, G5: a process dies on either side of each record, and the conversation comes out as if
nothing had happened.

The kill points are reached by a proxy in front of the store: before a request reaches it, or after
it answered and before the caller knows. Effects are counted where they happen: model calls at the
model server, tool calls in a file of the sandbox's workspace.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2

from tests.support.conversations import (
    assert_dense,
    follow,
    messages_of,
    run_end,
    tool_results,
    transcript,
)
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply
from tests.support.prompts import Prompt, call_tool
from tests.support.wire_tap import Side, WireTap

AGENTS = ("project_manager", "developer")
ROUNDS = 4
# Appends a line to a file of the workspace, then tells how many lines there are.
EFFECT = """
with open("effects.log", "a") as log:
    log.write("once\\n")
print("effects:", len(open("effects.log").readlines()))
"""


def team(body: dict[str, Any], number: int) -> Reply:
    """The developer runs one program with a side effect; everybody says what they saw."""
    prompt = Prompt(body)
    if "code_executor" in prompt.tools and not prompt.tool_results:
        return call_tool("code_executor", language="python", code=EFFECT)
    seen = "yes" if any("effects:" in r for r in prompt.tool_results) else "no"
    return Reply(f"Message {len(prompt.messages)}. An effect was seen: {seen}.")


async def converse(mesh: Mesh) -> list[event_pb2.Event]:
    """Four rounds: two replies of the manager, two programs and two replies of the developer."""
    started = await mesh.start_conversation("do it once", AGENTS, max_rounds=ROUNDS)
    return await follow(mesh.channel(), started.conversation_id)


KILLS = [
    ("agent_runtime", "BeginStep", 1),
    ("agent_runtime", "BeginStep", 2),
    ("agent_runtime", "RecordStep", 1),
    ("agent_runtime", "RecordStep", 2),
    ("agent_runtime", "RecordStep", 4),
    ("agent_runtime", "CommitTurn", 1),
    ("agent_runtime", "CommitTurn", 2),
    ("agent_runtime", "CommitTurn", 4),
    ("conversation_store", "BeginStep", 2),
    ("conversation_store", "RecordStep", 2),
    ("conversation_store", "CommitTurn", 2),
    ("tool_runner", "BeginStep", 3),
    ("tool_runner", "RecordStep", 3),
]


@pytest.mark.parametrize("side", list(Side), ids=lambda side: side.value)
@pytest.mark.parametrize(("victim", "method", "nth"), KILLS)
async def test_a_kill_on_either_side_of_a_record(
    model_mesh: Mesh,
    model_server: ModelServer,
    store_tap: WireTap,
    victim: str,
    method: str,
    nth: int,
    side: Side,
) -> None:
    model_server.reply_with(team)
    calm = await converse(model_mesh)
    calls = len(model_server.requests)
    model_server.requests.clear()
    store_tap.forget()

    async def strike() -> None:
        await model_mesh.kill(victim)
        model_mesh.restart_soon(victim)

    point = store_tap.at(side, method, nth, strike)
    events = await converse(model_mesh)

    # The last event may be here before the reply to the commit that made it.
    await asyncio.wait_for(point.done.wait(), 20)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED, run_end(events)
    assert sum(e.WhichOneof("kind") == "run_ended" for e in events) == 1
    ids = [m.message_id for m in messages_of(events)]
    assert len(ids) == len(set(ids))

    # Only a reply that was not recorded yet may have to be asked for again, and only that one.
    assert len(model_server.requests) <= calls + (victim != "tool_runner")
    results = tool_results(events)
    unknown = [r for r in results if r.outcome == message_pb2.TOOL_OUTCOME_UNKNOWN]
    if victim != "tool_runner":
        assert not unknown
        assert transcript(events) == transcript(calm)
    # Claimed and not recorded: nobody can know what came of it, and the model is told so.
    between = (method, side) in (("BeginStep", Side.AFTER), ("RecordStep", Side.BEFORE))
    assert len(unknown) == (victim == "tool_runner" and between)
    # However it was killed: no program of a recorded or unknown call ran twice.
    counts = [r.output.split("effects: ")[1].split()[0] for r in results if r not in unknown]
    assert counts[-1] in ("1", "2")
    assert len(counts) == len(set(counts)), counts


async def test_a_worker_that_wakes_up_late_can_write_nothing(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    """A runtime is stopped in the middle of a model call, loses its lease, and goes on."""
    model_server.reply_with(Reply("slow but sure"))
    model_server.delay = 1.0
    started = await model_mesh.start_conversation("wait", AGENTS, max_rounds=2)
    while not model_server.requests:
        await asyncio.sleep(0.01)
    runtime = model_mesh.processes["agent_runtime"]
    runtime.send_signal(signal.SIGSTOP)
    await asyncio.sleep(7)
    runtime.send_signal(signal.SIGCONT)
    events = await follow(model_mesh.channel(), started.conversation_id)
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED
    ids = [m.message_id for m in messages_of(events)]
    assert len(ids) == len(set(ids)) == 3
