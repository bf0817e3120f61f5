"""What stands behind a profile: fallbacks, and its pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from agentmesh_agent_runtime.definitions.profiles import Profile
from agentmesh_agent_runtime.models.endpoints import DEFAULT_CAPABILITIES
from agentmesh_agent_runtime.models.fallbacks import Candidate, FallbackReplySource, Rests
from agentmesh_agent_runtime.models.pace import Pace
from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece
from agentmesh_agent_runtime.turns.failures import (
    EndReason,
    ModelBusy,
    ModelCredentialsRefused,
    ModelFailed,
    ModelRefused,
    TurnFailure,
)
from autogen_core.models import ModelInfo, UserMessage

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
from tests.support.model_server import Fault, ModelServer, Reply

LAST = Reply("done TERMINATE")


@pytest_asyncio.fixture
async def second_server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        server.reply_with(LAST)
        yield server


def alice(**fields: object) -> MemoryRun:
    return MemoryRun(team(agent("alice", llm_config={"profile": "fast"} | fields)), [asked()])


def pair(first: ModelServer, second: ModelServer, **fields: Any) -> list[Profile]:
    return [
        profile("fast", base_url=first.base_url, fallbacks=("slow",), **fields),
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
