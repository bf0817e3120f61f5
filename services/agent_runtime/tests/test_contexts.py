"""Contexts that fit: what a model is given when not everything can be, and what the log shows."""

from __future__ import annotations

import re
from typing import Any

import pytest
from agentmesh_agent_runtime.definitions import tokens
from agentmesh_agent_runtime.models.scripted.rules import Rule
from agentmesh_agent_runtime.turns.checkpoints import DIFFERENCE, decode
from agentmesh_agent_runtime.turns.failures import (
    InvalidDefinition,
    LeaseLost,
    ModelFailed,
    ModelRefused,
)
from agentmesh_agent_runtime.turns.ports import ToolOutput, ToolRequest

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
from tests.support.model_server import Fault, ModelServer, Reply, ToolCall

SUMMARY = "You keep the memory of"
WORDS = "the quick brown fox jumps over the lazy dog and goes on its way home"


def is_summary(body: dict[str, Any]) -> bool:
    """Whether a request asks for a summary."""
    return str(body["messages"][0]["content"]).startswith(SUMMARY)


def remember(body: dict[str, Any], number: int) -> Reply:
    """Replies and summaries that depend on everything that was asked."""
    text = "\n".join(str(m.get("content")) for m in body["messages"])
    if is_summary(body):
        heard = sorted({int(n) for n in re.findall(r"saying (\d+)", text)})
        return Reply("we heard " + ", ".join(f"saying {n}" for n in heard))
    said = len(re.findall(r"saying \d+", text))
    return Reply(f"saying {1000 * said + len(body['messages'])}: {WORDS}")


def texts(body: dict[str, Any]) -> list[str]:
    return [str(m.get("content")) for m in body["messages"]]


def talking(context: dict[str, Any], rounds: int = 9, **fields: Any) -> MemoryRun:
    members = [agent(name, context=context, **fields) for name in ("alice", "bob")]
    return MemoryRun(team(*members), [asked("saying 0")], max_rounds=rounds)


async def test_as_many_of_the_newest_messages_as_fit_are_given(model_server: ModelServer) -> None:
    model_server.reply_with(remember)
    run = talking({"token_limited": {"max_tokens": 150}}, system_message="Be brief.")
    await take_all(run, driver(run, model_server.base_url))
    everything = ["saying 0", *(text for _, text in run.texts())]
    for turn, body in enumerate(model_server.requests):
        system, *given = texts(body)
        assert system == "Be brief."
        so_far = everything[: turn + 1]
        assert [g[-20:] for g in given] == [s[-20:] for s in so_far[-len(given) :]]
        sizes = [tokens.of_message(text) for text in (system, *given)]
        assert sum(sizes) <= 150
        if len(given) < len(so_far):
            # One more would not have fitted, with the name of its sender.
            assert sum(sizes) + tokens.of_message(so_far[-len(given) - 1]) + 4 * len(given) > 140
    assert {len(b["messages"]) - 1 for b in model_server.requests} > {1, 2}


async def test_the_newest_message_is_given_even_if_it_does_not_fit(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(Reply("done TERMINATE"))
    member = agent("alice", context={"token_limited": {"max_tokens": 20}})
    run = MemoryRun(team(member), [asked("first", 1), asked(f"{WORDS} " * 20, 2)])
    await take_all(run, driver(run, model_server.base_url))
    [body] = model_server.requests
    assert len(body["messages"]) == 1
    assert WORDS in texts(body)[0]


async def long_answer(request: ToolRequest) -> ToolOutput:
    return ToolOutput(f"{WORDS} " * 3, is_error=False)


@pytest.mark.parametrize(
    "context",
    [{"buffered": n} for n in range(1, 6)]
    + [{"head": head, "tail": tail} for head in range(4) for tail in range(1, 4)]
    + [
        {kind: {"max_tokens": most}}
        for kind in ("token_limited", "summarizing")
        for most in range(60, 300, 40)
    ],
    ids=str,
)
async def test_no_context_parts_a_tool_call_from_its_result(
    model_server: ModelServer, context: dict[str, Any]
) -> None:
    def call(body: dict[str, Any], number: int) -> Reply:
        if is_summary(body):
            return Reply("in short")
        if number % 3:
            return Reply(tool_calls=(ToolCall("look", "{}", "c"), ToolCall("look", "{}", "d")))
        return Reply("done " + WORDS)

    model_server.reply_with(call)
    member = agent("alice", tools=("look",), context=context)
    run = MemoryRun(team(member), [asked()], max_rounds=3, tools={"look": long_answer})
    await take_all(run, driver(run, model_server.base_url))
    replies = [body for body in model_server.requests if not is_summary(body)]
    for body in replies:
        calls = [c["id"] for m in body["messages"] for c in m.get("tool_calls") or ()]
        results = [m["tool_call_id"] for m in body["messages"] if m["role"] == "tool"]
        assert calls == results
    assert len(run.tool_calls) >= 4
    answered = sum(body["messages"][-1]["role"] == "tool" for body in replies)
    assert answered == len(run.tool_calls) / 2, "the model was not told what its calls came to"


@pytest.mark.parametrize("kind", ["token_limited", "summarizing"])
async def test_no_room_for_messages_ends_the_run_with_what_to_mend(
    model_server: ModelServer, kind: str
) -> None:
    member = agent("alice", tools=("look",), context={kind: {"max_tokens": 20}})
    run = MemoryRun(team(member), [asked()], tools={"look": long_answer})
    with pytest.raises(InvalidDefinition, match=r"alice.*tools.* of 20 tokens; raise max_tokens"):
        await take_turn(run, driver(run, model_server.base_url))
    assert model_server.requests == []


async def test_a_stages_instructions_take_room_too(model_server: ModelServer) -> None:
    context = {"token_limited": {"max_tokens": 60}}
    stage = {"name": "s", "agent": "alice", "instructions": f"{WORDS} " * 5}
    run = MemoryRun(team(agent("alice", context=context), stages=(stage,)), [asked()])
    with pytest.raises(InvalidDefinition, match=r"stages\[0\]\.instructions"):
        await take_turn(run, driver(run, model_server.base_url))


async def test_the_tail_alone_is_given_without_a_head(model_server: ModelServer) -> None:
    model_server.reply_with(remember)
    run = talking({"head": 0, "tail": 2}, rounds=5)
    await take_all(run, driver(run, model_server.base_url))
    assert [len(b["messages"]) for b in model_server.requests] == [1, 2, 2, 2, 2]


LIMIT = 190
SUMMARIZING = {"summarizing": {"max_tokens": LIMIT, "keep": 2}}


async def test_older_messages_become_a_summary_that_builds_on_the_one_before(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(remember)
    run = talking(SUMMARIZING, rounds=12)
    await take_all(run, driver(run, model_server.base_url))
    everything = ["saying 0", *(text for _, text in run.texts())]
    assert len(run.texts()) == 12, "a summary is no message"
    asked_for = [b for b in model_server.requests if is_summary(b)]
    assert len(asked_for) == len(run.summaries) >= 4
    for body in model_server.requests:
        assert is_summary(body) or sum(map(tokens.of_message, texts(body))) <= LIMIT
    for name in ("alice", "bob"):
        mine = [s for _, s in run.summaries if s.agent == name]
        for summary in mine:
            # Nothing that was said before is lost: the first word is told on and on.
            assert "saying 0" in summary.text
        ends = [s.last_sequence for s in mine]
        assert ends == sorted(set(ends))
        assert {s.first_sequence for s in mine} == {1}
    last = texts(model_server.requests[-1])
    assert last[0].startswith("Summary of the conversation so far:\nwe heard saying 0")
    assert last[-1].endswith(everything[-2][-30:])
    assert len(last) >= 3
    assert not any("we heard" in text for text in run.streamed().values())


async def test_keys_of_summaries_are_their_own(model_server: ModelServer) -> None:
    model_server.reply_with(remember)
    run = talking(SUMMARIZING)
    await take_all(run, driver(run, model_server.base_url))
    assert {key for key, _ in run.summaries} == {"alice~summary#1", "bob~summary#1"}


async def test_a_cold_worker_gives_and_commits_what_a_warm_one_would(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(remember)

    async def took(*, keep_warm: bool) -> tuple[MemoryRun, list[Any]]:
        run, first = talking(SUMMARIZING, rounds=12), len(model_server.requests)
        await take_all(run, driver(run, model_server.base_url), keep_warm=keep_warm)
        return run, [body["messages"] for body in model_server.requests[first:]]

    (warm, given), (cold, given_again) = await took(keep_warm=True), await took(keep_warm=False)
    assert given == given_again
    assert (warm.said, warm.summaries) == (cold.said, cold.summaries)
    kept, expected = (decode(run.chain)[0].state for run in (cold, warm))
    assert timeless(kept) == timeless(expected)
    assert DIFFERENCE in {result.checkpoint.encoding for result in cold.results}
    state = kept["agent_states"]["alice"]["agent_state"]["llm_context"]
    assert len(state["messages"]) == 12, "the context forgot what it does not give"
    assert state["summaries"]


BOBS, ALICES = "bob~summary#1", "alice~summary#1"


@pytest.mark.parametrize(
    "kills",
    [
        [("die_before", BOBS)],
        [("die_after", BOBS)],
        [("die_after", ALICES), ("die_before", BOBS)],
        [("die_after", BOBS), ("die_before", "bob#1")],
        [("die_after", BOBS), ("die_after", "bob#1")],
    ],
)
async def test_a_kill_around_a_summary_makes_it_once(
    model_server: ModelServer, kills: list[tuple[str, str]]
) -> None:
    model_server.reply_with(remember)
    calm = talking(SUMMARIZING)
    await take_all(calm, driver(calm, model_server.base_url))
    undisturbed = len(model_server.requests)

    killed = talking(SUMMARIZING)
    for number, (side, step) in enumerate(kills):
        setattr(killed, side, step)
        with pytest.raises(LeaseLost):
            await take_all(killed, driver(killed, model_server.base_url, worker_id=f"w{number}"))
    await take_all(killed, driver(killed, model_server.base_url, worker_id="last"))

    assert killed.said == calm.said
    assert killed.summaries == calm.summaries
    repeated = len(model_server.requests) - 2 * undisturbed
    assert repeated == sum(side == "die_before" for side, _ in kills)


async def test_more_than_the_newest_stay_only_if_they_fit_or_are_to_be_kept(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(remember)
    run = talking({"summarizing": {"max_tokens": 100, "keep": 4}})
    await take_all(run, driver(run, model_server.base_url))
    replies = [b for b in model_server.requests if not is_summary(b)]
    # Kept as promised, though they do not fit; each message that leaves costs a summary.
    assert [len(b["messages"]) for b in replies] == [1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert len(run.summaries) == 5


async def test_what_is_too_much_for_one_request_takes_several(model_server: ModelServer) -> None:
    model_server.reply_with(remember)
    inputs = [asked(f"saying {n}: {WORDS}", n) for n in range(1, 301)]
    member = agent("alice", context={"summarizing": {"max_tokens": 2500, "keep": 1}})
    run = MemoryRun(team(member), inputs, max_rounds=1)
    await take_all(run, driver(run, model_server.base_url))
    keys = [key for key, _ in run.summaries]
    assert keys == [f"alice~summary#{n}" for n in range(1, len(keys) + 1)]
    assert len(keys) > 2
    for body in model_server.requests:
        assert sum(map(tokens.of_message, texts(body))) <= 2500
    given = " ".join(texts(model_server.requests[-1]))
    assert all(f"saying {n}" in given for n in range(1, 301))


async def test_a_summary_stands_for_nothing_that_stays(model_server: ModelServer) -> None:
    """Not even for the event before an input that came while its turn was under way."""
    model_server.reply_with(remember)
    member = agent("alice", context=SUMMARIZING)
    run = MemoryRun(team(member), [asked("saying 0", 3)], max_rounds=8)
    turns = driver(run, model_server.base_url)
    for number in range(8):
        await take_turn(run, turns)
        run.inputs.append(asked(f"saying {number + 1}: {WORDS}", 10 * number + 5))
    for _, summary in run.summaries:
        told = [int(n) for n in re.findall(r"saying (\d+)\b", summary.text) if int(n) < 100]
        stays = 10 * max(told) + 5
        assert 1 <= summary.last_sequence < stays
    assert run.summaries[-1][1].last_sequence > 20


@pytest.mark.parametrize(
    ("faults", "failure", "requests"),
    [
        ([Fault(status=400, message="no")], ModelRefused, 1),
        ([Fault(status=503, headers={"Retry-After": "0"})] * 3, ModelFailed, 3),
        ([Fault(status=503, headers={"Retry-After": "0"})], None, 2),
    ],
)
async def test_a_summary_that_fails_is_a_failure_like_any_other(
    model_server: ModelServer,
    faults: list[Fault],
    failure: type[Exception] | None,
    requests: int,
) -> None:
    model_server.reply_with(remember)
    run = talking({"summarizing": {"max_tokens": 40, "keep": 1}})
    turns = driver(run, model_server.base_url)
    await take_turn(run, turns)
    model_server.fail_next(*faults)
    first = len(model_server.requests)
    if failure is None:
        await take_turn(run, turns)
        assert run.summaries
        return
    with pytest.raises(failure):
        await take_turn(run, turns)
    assert len(model_server.requests) - first == requests
    assert not run.summaries
    assert len(run.said) == 1


async def test_a_summary_that_was_cut_off_says_so(model_server: ModelServer) -> None:
    def short(body: dict[str, Any], number: int) -> Reply:
        if is_summary(body):
            return Reply("in sh", finish_reason="length")
        return remember(body, number)

    model_server.reply_with(short)
    run = talking({"summarizing": {"max_tokens": 40, "keep": 1}}, rounds=2)
    await take_all(run, driver(run, model_server.base_url))
    assert "cut off" in run.summaries[0][1].text
    assert "cut off" in texts(model_server.requests[-1])[0]


async def test_a_script_can_write_summaries() -> None:
    rules = (
        Rule.model_validate(
            {"name": "sum", "when": {"stage": "^context_summary$"}, "say": "in short: {{agent}}"}
        ),
        Rule.model_validate({"name": "talk", "when": {}, "say": f"well, {WORDS}"}),
    )
    run = talking({"summarizing": {"max_tokens": 60, "keep": 1}}, rounds=3)
    await take_all(run, driver(run, rules=rules))
    assert run.summaries[0][1].text == "in short: alice"


@pytest.mark.parametrize("broken", [{"summaries": [{"through": 99, "text": "x"}]}, {"marks": [1]}])
async def test_a_broken_state_does_not_fit_the_definition(
    model_server: ModelServer, broken: dict[str, Any]
) -> None:
    model_server.reply_with(remember)
    run = talking(SUMMARIZING)
    _, live = await take_turn(run, driver(run, model_server.base_url))
    state: Any = await live.group.save_state()
    state["agent_states"]["alice"]["agent_state"]["llm_context"] |= broken
    with pytest.raises(ValueError, match=r"Invalid state format|messages that are not there"):
        await live.group.load_state(state)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("Hello world", 2, 5),
        ("internationalisation", 4, 8),
        ("3.14159265", 4, 10),
        ("a1" * 40, 40, 80),
        ("当对话超过最大令牌数时", 9, 33),
        ("\ud800", 1, 3),
        ("    return None\n", 3, 6),
    ],
)
def test_the_estimate_is_on_the_safe_side(text: str, least: int, most: int) -> None:
    assert least <= tokens.estimate(text) <= most
