"""Components that hang, fail, or make what does not fit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from agentmesh_agent_runtime.definitions.specs import (
    LlmSettings,
    TeamSpec,
    TerminationSpec,
)
from agentmesh_agent_runtime.turns import driver as driving
from agentmesh_agent_runtime.turns import hosting as hosted
from agentmesh_agent_runtime.turns.failures import (
    ComponentFailed,
    InvalidDefinition,
    LeaseLost,
    ModelRefused,
    TurnStalled,
)

from services.agent_runtime.tests.component_package import install
from services.agent_runtime.tests.extension_world import (
    chaired,
    hosting,
)
from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.test_team_kinds import (
    context,
    member,
)
from tests.support.model_server import Fault, ModelServer, Reply

pytestmark = pytest.mark.usefixtures("packages")


async def test_a_component_that_never_ends_is_given_up(
    model_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "STATE_SECONDS", 0.5)
    run = MemoryRun(team(agent("odd", component="SavesForEver"), member("bob")), [asked()])
    with pytest.raises(ComponentFailed, match="SavesForEver' failed: TimeoutError"):
        await take_turn(run, hosting(run, model_server))
    run = MemoryRun(team(agent("odd", component="TalksForEver"), member("bob")), [asked()])
    with pytest.raises(TurnStalled, match="odd is at work"):
        await take_turn(run, hosting(run, model_server, stall_seconds=3.0))
    (tmp_path / "slow").mkdir()
    points = {"agentmesh.agents": {"slow": "f"}}
    install(tmp_path / "slow", monkeypatch, "import time\ntime.sleep(2)", points, name="slow")
    run = MemoryRun(team(agent("odd", component="slow"), member("bob")), [asked()])
    with pytest.raises(TurnStalled, match="the import of slow"):
        await take_turn(run, hosting(run, model_server, stall_seconds=0.2))


async def test_a_component_that_asks_again_and_again_holds_up_nobody(
    model_server: ModelServer,
) -> None:
    model_server.fail_next(Fault(status=400, message="no such thing"))
    run = MemoryRun(team(agent("odd", component="AsksAgain"), member("bob")), [asked()])
    with pytest.raises(ModelRefused, match="no such thing"):
        await take_turn(run, hosting(run, model_server))


@pytest.mark.parametrize(
    ("component", "says"),
    [
        ("Raises", "RuntimeError"),
        ("Exits", "SystemExit"),
        ("SaysNothing", "answered with nothing"),
        ("NeverAnswers", "without an answer"),
        ("BadState", "no JSON"),
        ("BadKey", "names no effect"),
        ("BadOnce", "no JSON"),
        ("OnceRaises", "effect 'thing' of odd failed: RuntimeError"),
        ("EndlessOnce", "longer than"),
        ("EndlessAnswer", "longer than"),
        ("EndlessCall", "longer than"),
    ],
)
async def test_an_agent_that_fails_ends_its_turn_and_is_not_quoted(
    model_server: ModelServer, component: str, says: str
) -> None:
    run = MemoryRun(team(agent("odd", component=component), member("bob")), [asked()])
    with pytest.raises(ComponentFailed, match=says) as failed:
        await take_turn(run, hosting(run, model_server))
    assert component in str(failed.value) or "of odd" in str(failed.value)
    assert "hunter2" not in str(failed.value)
    assert failed.value.retryable


async def test_halves_of_letters_are_replaced(model_server: ModelServer) -> None:
    run = MemoryRun(team(agent("odd", component="HalfLetters"), member("bob")), [asked()])
    await take_turn(run, hosting(run, model_server))
    assert run.texts() == [("odd", "half \ufffd a letter")]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (team(agent("a", component="WrongName"), member("b")), "named 'other'"),
        (team(agent("a", component="MakesNothing"), member("b")), "no ChatAgent"),
        (team(agent("a", component="CannotBeMade"), member("b")), "RuntimeError"),
        (team(agent("a", component="SaysWhy"), member("b")), "there is no region eu"),
        (chaired(member("b")).model_copy(update={"component": "EndlessTeam"}), "max_turns None"),
        (chaired(member("b")).model_copy(update={"component": "OtherMembers"}), "other members"),
    ],
)
async def test_what_a_factory_makes_must_fit(
    model_server: ModelServer, spec: TeamSpec, says: str
) -> None:
    spec = spec.model_copy(update={"component_config": {}})
    run = MemoryRun(spec, [asked()])
    with pytest.raises(InvalidDefinition, match=says) as failed:
        await take_turn(run, hosting(run, model_server))
    assert "hunter2" not in str(failed.value)


@pytest.mark.parametrize("name", ["ChoosesStranger", "ChoosesTwice", "ChoiceRaises"])
async def test_a_team_that_chooses_badly_fails_its_turn(
    model_server: ModelServer, name: str
) -> None:
    spec = team(member("a"), member("b"), kind="component", component=name)
    run = MemoryRun(spec, [asked()])
    with pytest.raises(ComponentFailed, match=name):
        await take_turn(run, hosting(run, model_server))


async def test_a_condition_that_raises_fails_its_turn(model_server: ModelServer) -> None:
    spec = team(member("a"), member("b"), termination=TerminationSpec(component="RaisesWhenAsked"))
    run = MemoryRun(spec, [asked()])
    with pytest.raises(ComponentFailed, match="RaisesWhenAsked"):
        await take_turn(run, hosting(run, model_server))


async def test_a_stopped_turn_does_not_wait_for_a_component(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "UNWIND_SECONDS", 1000.0)
    run = MemoryRun(team(agent("odd", component="WaitsForEver"), member("bob")), [asked()])
    turns = hosting(run, model_server)
    opened = []

    def stop_soon(scope: Any) -> None:
        opened.append(scope)
        asyncio.get_running_loop().call_later(0.3, scope.stop, LeaseLost("cancelled"))

    with pytest.raises(LeaseLost):
        await take_turn(run, turns, opened=stop_soon)
    assert opened[0].activity == "odd is at work"


async def test_a_team_may_ask_a_model_that_nobody_hears(model_server: ModelServer) -> None:
    model_server.reply_with(
        lambda body, number: Reply("b" if "who?" in str(body) else context(body))
    )
    spec = team(
        member("a"),
        member("b"),
        kind="component",
        component="AsksAModel",
        orchestrator=LlmSettings(model="test-model"),
    )
    run = MemoryRun(spec, [asked()], max_rounds=2)
    await take_all(run, hosting(run, model_server))
    assert [result.speaker for result in run.results] == ["b", "b"]
    assert {m.agent for m in run.said} == {"b"}
    assert {result.step_key for result in run.recorded} >= {":team#1", "b#1"}
