"""What stands behind a profile: fallbacks, its pace, its cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from agentmesh_agent_runtime.definitions.profiles import Profile
from agentmesh_agent_runtime.models.endpoints import DEFAULT_CAPABILITIES, Endpoint
from agentmesh_agent_runtime.models.fallbacks import Candidate, FallbackReplySource, Rests
from agentmesh_agent_runtime.models.pace import Pace
from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece
from agentmesh_agent_runtime.models.reply_cache import CachedReplySource, ReplyCache
from agentmesh_agent_runtime.turns.driver import TurnDriver
from agentmesh_agent_runtime.turns.failures import (
    EndReason,
    ModelBusy,
    ModelCredentialsRefused,
    ModelFailed,
    ModelRefused,
    TurnFailure,
)
from agentmesh_agent_runtime.turns.images import ShownImage
from agentmesh_agent_runtime.turns.ports import Consumption, ToolOutput, ToolRequest
from autogen_core.models import ModelInfo, SystemMessage, UserMessage

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.test_profiles import profile
from tests.support.model_server import Fault, ModelServer, Reply, ToolCall

LAST = Reply("done TERMINATE")


@pytest_asyncio.fixture
async def second_server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        server.reply_with(LAST)
        yield server


def alice(**fields: object) -> MemoryRun:
    return MemoryRun(team(agent("alice", llm_config={"profile": "fast"} | fields)), [asked()])


def pair(first: ModelServer, second: ModelServer, **fields: object) -> list[Profile]:
    return [
        profile("fast", base_url=first.base_url, fallbacks=("slow",), **fields),  # type: ignore[arg-type]
        profile("slow", base_url=second.base_url, model="big-model", temperature=0.9),
    ]


@pytest.mark.parametrize(
    ("fault", "asked_first"),
    [
        (Fault(status=500), 3),
        (Fault(status=401), 1),
        (Fault(status=400, message="too long"), 1),
        (Fault(status=429, code="insufficient_quota"), 1),
        (Fault(status=429, headers={"Retry-After": "3600"}), 1),
        (Fault(stream="drop"), 3),
    ],
)
async def test_the_next_profile_answers_when_one_fails(
    model_server: ModelServer, second_server: ModelServer, fault: Fault, asked_first: int
) -> None:
    model_server.fail_next(fault, fault, fault)
    run = alice(temperature=0.4)
    turns = driver(run, profiles=pair(model_server, second_server))
    assert await take_all(run, turns) is EndReason.TERMINATED
    assert len(model_server.requests) == asked_first
    (body,) = second_server.requests
    assert (body["model"], body["temperature"]) == ("big-model", 0.4)
    (step,) = run.recorded
    assert step.model == "big-model"


async def test_an_agents_own_model_is_the_first_profiles_alone(
    model_server: ModelServer, second_server: ModelServer
) -> None:
    model_server.fail_next(Fault(status=401))
    run = alice(model="my-model", extra={"top_p": 0.5})
    await take_all(run, driver(run, profiles=pair(model_server, second_server)))
    assert model_server.requests[0]["model"] == "my-model"
    assert second_server.requests[0]["model"] == "big-model"
    assert second_server.requests[0]["top_p"] == 0.5


async def test_a_fallback_answers_with_its_own_price(
    model_server: ModelServer, second_server: ModelServer
) -> None:
    model_server.fail_next(Fault(status=401))
    first, second = pair(model_server, second_server, input_price_micros=10**9)
    dear = replace(second, spec=second.spec.model_copy(update={"input_price_micros": 10**6}))
    run = alice()
    await take_all(run, driver(run, profiles=[first, dear]))
    usage = run.recorded[0].usage
    assert usage.cost_micros == usage.input_tokens > 0


@pytest.mark.parametrize(
    ("faults", "kind", "wait"),
    [
        ((Fault(status=401), Fault(status=400)), ModelCredentialsRefused, None),
        ((Fault(status=400), Fault(status=401)), ModelRefused, None),
        (
            (Fault(status=400), Fault(status=503, headers={"Retry-After": "90"})),
            ModelFailed,
            90,
        ),
    ],
)
async def test_when_all_fail_each_is_told_and_it_is_worth_trying_again_if_one_is(
    model_server: ModelServer,
    second_server: ModelServer,
    faults: tuple[Fault, Fault],
    kind: type[TurnFailure],
    wait: float | None,
) -> None:
    model_server.fail_next(faults[0])
    second_server.fail_next(faults[1])
    run = alice()
    with pytest.raises(TurnFailure) as caught:
        await take_turn(run, driver(run, profiles=pair(model_server, second_server)))
    assert type(caught.value) is kind
    assert caught.value.retry_after == wait
    assert "fast: " in caught.value.detail
    assert "slow: " in caught.value.detail


async def test_a_stream_that_broke_is_the_fallbacks_on_the_next_attempt(
    model_server: ModelServer, second_server: ModelServer
) -> None:
    model_server.reply_with(Reply("one two three four"))
    model_server.fail_next(Fault(stream="drop", after_chunks=3))
    run = alice()
    turns = driver(run, profiles=pair(model_server, second_server))
    with pytest.raises(ModelFailed):
        await take_turn(run, turns)
    assert not second_server.requests, "pieces of two replies went into one message"
    assert await take_all(run, turns) is EndReason.TERMINATED
    assert len(model_server.requests) == 1


def test_a_rest_ends_with_time_or_an_answer() -> None:
    now = [0.0]
    rests = Rests(seconds=30, clock=lambda: now[0])
    rests.begin("acme", "a")
    assert rests.has("acme", "a")
    assert not rests.has("acme", "b")
    assert not rests.has("other", "a")
    now[0] = 30
    assert not rests.has("acme", "a")
    rests.begin("acme", "a")
    rests.end("acme", "a")
    assert not rests.has("acme", "a")


async def test_a_pace_lets_no_more_begin_and_keeps_the_order() -> None:
    now = [0.0]
    asleep: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(seconds: float) -> None:
        wakes: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asleep.append((now[0] + seconds, wakes))
        await wakes

    pace, starts = Pace(2, seconds=10, clock=lambda: now[0], sleep=sleep), []

    async def one(number: int) -> None:
        await pace.wait()
        starts.append((number, now[0]))

    async def settled() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    waiting = [asyncio.create_task(one(number)) for number in range(6)]
    await settled()
    while asleep:
        now[0], wakes = asleep.pop(0)
        wakes.set_result(None)
        await settled()
    await asyncio.gather(*waiting)
    assert starts == [(0, 0), (1, 0), (2, 10), (3, 10), (4, 20), (5, 20)]


async def test_a_pace_refuses_a_long_wait_and_keeps_no_place_for_it() -> None:
    now = [0.0]
    pace = Pace(1, seconds=60, longest_wait=20, clock=lambda: now[0])
    await pace.wait()
    for _ in range(3):
        with pytest.raises(ModelBusy) as caught:
            await pace.wait()
        assert caught.value.retry_after == 60
        assert caught.value.retryable
        assert not caught.value.counts
    now[0] = 60
    await pace.wait()


async def test_a_busy_profile_leaves_its_request_to_the_next(
    model_server: ModelServer, second_server: ModelServer
) -> None:
    model_server.reply_with(Reply("go on"))
    profiles = pair(model_server, second_server, requests_per_minute=1)
    run = alice()
    assert await take_all(run, driver(run, profiles=profiles)) is EndReason.TERMINATED
    assert (len(model_server.requests), len(second_server.requests)) == (1, 1)


async def test_repeated_requests_count_for_the_pace(model_server: ModelServer) -> None:
    model_server.fail_next(*[Fault(status=500)] * 9)
    run = alice()
    paced = profile(base_url=model_server.base_url, requests_per_minute=2)
    with pytest.raises(ModelBusy):
        await take_turn(run, driver(run, profiles=[paced]))
    assert len(model_server.requests) == 2


def cached_turns(run: MemoryRun, server: ModelServer, **fields: object) -> TurnDriver:
    cached = profile(
        base_url=server.base_url,
        cache_replies=True,
        input_price_micros=10**6,
        **fields,  # type: ignore[arg-type]
    )
    return driver(run, profiles=[cached])


async def test_an_equal_request_gets_the_kept_reply_and_uses_nothing(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(Reply("done TERMINATE", reasoning="hm well"))
    runs = [alice(), alice(), alice(temperature=0.9)]
    turns = cached_turns(runs[0], model_server)
    for run in runs:
        assert await take_all(run, turns) is EndReason.TERMINATED
    assert len(model_server.requests) == 2
    first, again, other = (run.recorded[0] for run in runs)
    assert first.usage.cost_micros > 0
    assert again.usage == Consumption()
    assert ModelReply.decode(again.result).cached
    assert not ModelReply.decode(other.result).cached
    assert runs[1].texts() == runs[0].texts()
    assert list(runs[1].streamed().values()) == ["done TERMINATE"]


async def test_no_reply_is_kept_for_another_tenant(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_server.reply_with(LAST)
    run = alice()
    turns = cached_turns(run, model_server)
    for tenant in ("one", "two", "one"):
        grant = run.grant()
        grant = replace(grant, id=replace(grant.id, tenant=tenant))
        await turns.take(turns.open(grant, run.ports(grant)), None)
        run.steps.clear()
    assert len(model_server.requests) == 2


class Counting:
    """A model that says how often it was asked."""

    provider = "openai"
    model = "m"
    info = DEFAULT_CAPABILITIES

    def __init__(self) -> None:
        self.asked = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        self.asked += 1
        yield ModelReply(f"reply {self.asked}")


def request(**fields: Any) -> ModelRequest:
    common: dict[str, Any] = {
        "agent": "alice",
        "role": "",
        "stage": "",
        "round": 0,
        "messages": [UserMessage(content="hello", source="user")],
        "tenant": "acme",
    }
    return ModelRequest(**(common | fields))


def tool(name: str, description: str = "") -> Any:
    return {"name": name, "description": description, "parameters": {}}


def shown(data: bytes) -> list[UserMessage]:
    return [UserMessage(content=["x", ShownImage("image/png", data)], source="user")]


async def test_a_fallback_that_answers_in_no_json_is_passed_over_where_it_is_wanted() -> None:
    class Failing(Counting):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
            raise ModelRefused("no")
            yield

    plain, last = Counting(), Counting()
    plain.info = ModelInfo(**{**DEFAULT_CAPABILITIES, "json_output": False})
    sources = {"first": Failing(), "plain": plain, "last": last}
    source = FallbackReplySource([Candidate(n, s) for n, s in sources.items()], Rests())
    for wanted in (True, None):
        async for _ in source.stream(request(json_output=wanted)):
            pass
    assert (plain.asked, last.asked) == (1, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"messages": [UserMessage(content="hello!", source="user")]}),
        ({}, {"messages": [SystemMessage(content="hello")]}),
        ({"messages": shown(b"1")}, {"messages": shown(b"2")}),
        ({}, {"tools": [tool("a")]}),
        ({"tools": [tool("a")]}, {"tools": [tool("a", "Does it.")]}),
        ({"tools": [tool("a")]}, {"tools": [tool("a")], "tool_choice": "none"}),
        ({}, {"json_output": True}),
        ({}, {"output_schema": {"type": "object"}}),
        ({"output_schema": {"type": "object"}}, {"output_schema": {"type": "object", "a": 1}}),
        ({}, {"tenant": "other"}),
    ],
)
async def test_a_request_that_differs_in_anything_is_another(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    model = Counting()
    source = CachedReplySource(model, Endpoint("m"), ReplyCache())
    said = []
    for fields in (one, other, one, other):
        *_, last = [item async for item in source.stream(request(**fields))]
        assert isinstance(last, ModelReply)
        said.append(last.text)
    assert said == ["reply 1", "reply 2", "reply 1", "reply 2"]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"base_url": "http://elsewhere"},
        {"temperature": 0.5},
        {"max_tokens": 5},
        {"extra": {"seed": 1}},
    ],
)
async def test_a_model_that_is_asked_in_another_way_is_another(other: dict[str, Any]) -> None:
    model, cache = Counting(), ReplyCache()
    for endpoint in (Endpoint("m"), replace(Endpoint("m"), **other), Endpoint("m")):
        async for _ in CachedReplySource(model, endpoint, cache).stream(request()):
            pass
    assert model.asked == 2


async def test_kept_tool_calls_are_carried_out_again(model_server: ModelServer) -> None:
    async def tool(request: ToolRequest) -> ToolOutput:
        return ToolOutput("fine", is_error=False)

    def run() -> MemoryRun:
        spec = team(agent("alice", llm_config={"profile": "fast"}, tools=("probe",)))
        return MemoryRun(spec, [asked()], tools={"probe": tool})

    model_server.reply_with([Reply(tool_calls=(ToolCall("probe", "{}"),)), LAST])
    first, second = run(), run()
    turns = cached_turns(first, model_server)
    await take_all(first, turns)
    await take_all(second, turns)
    assert len(model_server.requests) == 2
    assert len(second.tool_calls) == 1


async def test_without_being_asked_to_nothing_is_kept(model_server: ModelServer) -> None:
    model_server.reply_with(LAST)
    runs = [alice(), alice()]
    turns = driver(runs[0], profiles=[profile(base_url=model_server.base_url)])
    for run in runs:
        await take_all(run, turns)
    assert len(model_server.requests) == 2


async def test_a_reply_that_was_cut_off_is_not_kept(model_server: ModelServer) -> None:
    model_server.reply_with(Reply("done TERMINATE", finish_reason="length"))
    runs = [alice(), alice()]
    turns = cached_turns(runs[0], model_server)
    for run in runs:
        await take_all(run, turns)
    assert len(model_server.requests) == 2


def test_a_cache_is_bounded_in_entries_and_bytes() -> None:
    cache = ReplyCache(most_entries=2, most_bytes=10_000)
    for name in (b"a", b"b"):
        cache.put(name, ModelReply(text="x"))
    assert cache.get(b"a")
    cache.put(b"c", ModelReply(text="x"))
    assert cache.get(b"b") is None, "the one used last was dropped"
    assert cache.get(b"a")
    cache.put(b"d", ModelReply(text="y" * 9_700))
    assert len(cache) == 1
    cache.put(b"e", ModelReply(text="y" * 20_000))
    assert cache.get(b"e") is None
    assert cache.get(b"d")
    cache.put(b"d", ModelReply(text="z"))
    cache.put(b"f", ModelReply(text="y" * 9_000))
    assert len(cache) == 2, "the bytes of a replaced reply still count"
