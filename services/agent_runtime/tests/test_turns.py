"""Turns of teams on a model server: transcripts, resumption, steps that are never repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from agentmesh_agent_runtime.models.replies import ModelReply
from agentmesh_agent_runtime.turns.checkpoints import DIFFERENCE, decode
from agentmesh_agent_runtime.turns.failures import EndReason, LeaseLost, ReplayDiverged
from agentmesh_agent_runtime.turns.ports import (
    DeltaKind,
    PartKind,
    Speaker,
    StepResult,
    ToolOutput,
    ToolRequest,
)

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
    timeless,
)
from tests.support.model_server import ModelServer, Reply, ToolCall


def say_who(body: dict[str, Any], number: int) -> Reply:
    """A reply that depends on everything that was asked, so that lost context shows."""
    seen = [str(m.get("content"))[:20] for m in body["messages"]]
    return Reply(f"I see {len(seen)} messages, the last is {seen[-1]!r}")


async def run_of(server: ModelServer, *, keep_warm: bool) -> MemoryRun:
    run = MemoryRun(team(agent("alice"), agent("bob")), [asked("begin")], max_rounds=5)
    await take_all(run, driver(run, server.base_url), keep_warm=keep_warm)
    return run


async def test_a_team_speaks_in_turn_until_max_rounds(model_server: ModelServer) -> None:
    model_server.reply_with(say_who)
    run = await run_of(model_server, keep_warm=False)
    assert [who for who, _ in run.texts()] == ["alice", "bob", "alice", "bob", "alice"]
    assert run.results[-1].end_reason is EndReason.MAX_ROUNDS
    assert run.results[-1].summary == run.texts()[-1][1]
    assert run.results[-1].speaker == "alice"


async def test_turns_in_fresh_processes_equal_a_warm_team(model_server: ModelServer) -> None:
    model_server.reply_with(say_who)
    cold = await run_of(model_server, keep_warm=False)
    warm = await run_of(model_server, keep_warm=True)
    assert cold.texts() == warm.texts()
    assert [m.message_id for m in cold.said] == [m.message_id for m in warm.said]


async def test_a_cold_worker_commits_what_a_warm_one_would(model_server: ModelServer) -> None:
    model_server.reply_with(say_who)

    async def chain(*, keep_warm: bool, withhold: bool = False) -> MemoryRun:
        run = MemoryRun(
            team(agent("alice"), agent("bob")),
            [asked("begin")],
            max_rounds=9,
            withhold_chain=withhold,
        )
        await take_all(run, driver(run, model_server.base_url), keep_warm=keep_warm)
        return run

    warm = await chain(keep_warm=True)
    assert DIFFERENCE in {result.checkpoint.encoding for result in warm.results}
    # What AutoGen saves holds times of the wall clock: compare what the states say besides.
    for cold in (await chain(keep_warm=False), await chain(keep_warm=False, withhold=True)):
        assert cold.texts() == warm.texts()
        kept, expected = (decode(run.chain)[0] for run in (cold, warm))
        assert timeless(kept.state) == timeless(expected.state)
        assert DIFFERENCE in {result.checkpoint.encoding for result in cold.results}


async def test_text_streams_to_subscribers_piece_by_piece(model_server: ModelServer) -> None:
    model_server.reply_with(Reply("one two three TERMINATE", reasoning="let me see"))
    run = MemoryRun(team(agent("alice")), [asked()])
    await take_all(run, driver(run, model_server.base_url))
    message = run.said[-1]
    assert run.streamed() == {message.message_id: "one two three TERMINATE"}
    assert len([d for d in run.deltas if d[2] is DeltaKind.TEXT]) == 4
    assert "let me see" in "".join(d[3] for d in run.deltas if d[2] is DeltaKind.REASONING)
    assert [p.kind for p in message.parts] == [PartKind.REASONING, PartKind.TEXT]


async def test_usage_is_counted_in_streams(model_server: ModelServer) -> None:
    model_server.reply_with(Reply("a b c TERMINATE", reasoning="x y"))
    run = MemoryRun(team(agent("alice")), [asked("one two three four")])
    recorded = []
    turns = driver(run, model_server.base_url)
    grant = run.grant()
    ports = run.ports(grant)
    record = ports.steps.record

    class Spy:
        begin = ports.steps.begin

        async def record(self, result: StepResult) -> None:
            recorded.append(result.usage)
            await record(result)

    await turns.take(turns.open(grant, replace(ports, steps=Spy())), None)
    assert recorded[0].output_tokens == 6
    assert recorded[0].reasoning_tokens == 2
    assert recorded[0].input_tokens == 4
    assert recorded[0].cached_input_tokens == 2
    assert not recorded[0].estimated
    assert model_server.requests[0]["stream_options"] == {"include_usage": True}


async def test_missing_usage_is_estimated_and_says_so(model_server: ModelServer) -> None:
    model_server.reply_with(Reply("a b c TERMINATE", usage=False))
    run = MemoryRun(team(agent("alice")), [asked("one two three four")])
    turns = driver(run, model_server.base_url)
    await take_turn(run, turns)
    # The record of the step was cleared by the commit; ask again for the encoded form.
    grant = run.grant()
    scope = turns.open(grant, run.ports(grant))
    await turns.take(scope, None)
    reply = ModelReply.decode(next(iter(run.steps.values())).result or b"")
    assert reply.usage.estimated
    assert reply.usage.output_tokens > 0


async def echo(request: ToolRequest) -> ToolOutput:
    return ToolOutput(f"{request.tool} got {request.arguments_json}", is_error=False)


def tool_run(**fields: Any) -> MemoryRun:
    return MemoryRun(
        team(agent("alice", tools=("echo",))), [asked()], tools={"echo": echo}, **fields
    )


async def test_tool_calls_come_back_into_the_conversation(model_server: ModelServer) -> None:
    model_server.reply_with(
        [
            Reply("Let me look.", tool_calls=(ToolCall("echo", '{"n": 1}', "c1"),)),
            Reply("done TERMINATE"),
        ]
    )
    run = tool_run()
    assert await take_all(run, driver(run, model_server.base_url)) is EndReason.TERMINATED
    first, last = run.said
    assert [(p.kind, p.text) for p in first.parts] == [
        (PartKind.TEXT, "Let me look."),
        (PartKind.TOOL_CALL, '{"n": 1}'),
    ]
    assert last.text == "done TERMINATE"
    sent = model_server.requests[1]["messages"][-1]
    assert sent["role"] == "tool"
    assert sent["content"] == 'echo got {"n": 1}'
    assert run.tool_calls[0].tool_call_id == "c1"


async def test_malformed_arguments_reach_the_tool_as_written(model_server: ModelServer) -> None:
    model_server.reply_with(
        [Reply(tool_calls=(ToolCall("echo", '{"n": ', "c1"),)), Reply("done TERMINATE")]
    )
    run = tool_run()
    await take_all(run, driver(run, model_server.base_url))
    assert run.tool_calls[0].arguments_json == '{"n": '
    assert model_server.requests[1]["messages"][-1]["content"] == 'echo got {"n": '


async def test_a_tool_that_the_agent_does_not_have_is_refused_and_recorded(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(
        [Reply(tool_calls=(ToolCall("other", "{}", "c1"),)), Reply("done TERMINATE")]
    )
    run = tool_run()
    run.tools["other"] = echo
    await take_all(run, driver(run, model_server.base_url))
    assert run.tool_calls == []
    refusal = next(m for m in run.said if m.speaker is Speaker.TOOL)
    assert refusal.parts[0].failed
    assert "You have no tool 'other'" in model_server.requests[1]["messages"][-1]["content"]


async def test_repeated_call_ids_get_names_of_their_own(model_server: ModelServer) -> None:
    same = ToolCall("echo", "{}", "same")
    model_server.reply_with(
        [Reply(tool_calls=(same, same)), Reply(tool_calls=(same,)), Reply("done TERMINATE")]
    )
    run = tool_run()
    await take_all(run, driver(run, model_server.base_url))
    assert [c.tool_call_id for c in run.tool_calls] == ["same", "same~2", "same~3"]
    answered = [
        m["tool_call_id"] for m in model_server.requests[2]["messages"] if "tool_call_id" in m
    ]
    assert answered == ["same", "same~2", "same~3"]


def worker(body: dict[str, Any], number: int) -> Reply:
    """Calls the tool once per turn and then says what came of it."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return Reply(f"the tool said {last['content']} after {len(body['messages'])} messages")
    return Reply(tool_calls=(ToolCall("echo", json.dumps({"n": len(body["messages"])}), "c"),))


STEPS = ["alice#1", "alice#2", "bob#1", "bob#2"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("side", ["die_before", "die_after"])
async def test_a_run_killed_at_any_step_goes_on_as_if_nothing_had_been(
    model_server: ModelServer, step: str, side: str
) -> None:
    def fresh() -> MemoryRun:
        members = [agent(name, tools=("echo",)) for name in ("alice", "bob")]
        return MemoryRun(team(*members), [asked()], max_rounds=4, tools={"echo": echo})

    model_server.reply_with(worker)
    calm = fresh()
    await take_all(calm, driver(calm, model_server.base_url))
    undisturbed = len(model_server.requests)

    killed = fresh()
    setattr(killed, side, step)
    turns = driver(killed, model_server.base_url)
    with pytest.raises(LeaseLost):
        await take_all(killed, turns)
    await take_all(killed, driver(killed, model_server.base_url, worker_id="worker-2"))

    assert killed.texts() == calm.texts()
    assert [m.message_id for m in killed.said] == [m.message_id for m in calm.said]
    repeated = len(model_server.requests) - 2 * undisturbed
    assert repeated == (1 if side == "die_before" else 0)
    assert len(killed.tool_calls) == len(calm.tool_calls)


async def test_input_that_came_meanwhile_waits_for_the_next_turn(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(say_who)
    run = MemoryRun(team(agent("alice"), agent("bob")), [asked("begin", 1)], max_rounds=2)
    run.die_after = "alice#1"
    turns = driver(run, model_server.base_url)
    with pytest.raises(LeaseLost):
        await take_turn(run, turns)
    run.inputs.append(asked("and hurry", 5))
    result, _ = await take_turn(run, turns)
    assert result.last_input_sequence == 1
    assert len(model_server.requests) == 1, "the recorded reply was asked for again"
    await take_turn(run, turns)
    assert model_server.requests[-1]["messages"][-1]["content"] == "and hurry"


async def test_another_request_under_a_recorded_key_diverges(model_server: ModelServer) -> None:
    model_server.reply_with(say_who)
    run = MemoryRun(team(agent("alice")), [asked("begin", 1)])
    run.die_after = "alice#1"
    turns = driver(run, model_server.base_url)
    with pytest.raises(LeaseLost):
        await take_turn(run, turns)
    run.inputs[0] = asked("something else", 1)
    with pytest.raises(ReplayDiverged):
        await take_turn(run, turns)


@pytest.mark.parametrize("human_input", [True, False])
async def test_terminate_mode_asks_a_person_before_the_end(
    model_server: ModelServer, human_input: bool
) -> None:
    model_server.reply_with(Reply("done TERMINATE"))
    member = agent("alice", human_input_mode="TERMINATE")
    run = MemoryRun(team(member), [asked("begin", 1)], human_input=human_input)
    turns = driver(run, model_server.base_url)
    result, _ = await take_turn(run, turns)
    assert result.waits_for_input == human_input
    assert (result.end_reason is EndReason.TERMINATED) == (not human_input)
    if not human_input:
        return
    model_server.reply_with([Reply("as you wish"), Reply("done TERMINATE")])
    run.inputs.append(asked("one thing more", 5))
    result, _ = await take_turn(run, turns)
    assert result.end_reason is None, "what was said before the answer ended the run"
    assert not result.waits_for_input
    await take_turn(run, turns)
    run.inputs.append(asked("exit", 9))
    calls = len(model_server.requests)
    result, _ = await take_turn(run, turns)
    assert result.end_reason is EndReason.TERMINATED
    assert len(model_server.requests) == calls
