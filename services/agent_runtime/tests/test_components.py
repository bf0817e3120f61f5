"""What installed packages add: a real one, built for the test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from agentmesh_agent_runtime.components import CANDIDATE_FUNCTIONS, ComponentError, Components
from agentmesh_agent_runtime.definitions.check import check_team
from agentmesh_agent_runtime.definitions.specs import SelectorSpec, TeamSpec
from agentmesh_agent_runtime.turns.driver import TurnDriver

from services.agent_runtime.tests.memory_world import MemoryRun, asked, driver, take_all, team
from services.agent_runtime.tests.test_team_kinds import echo, member, select
from tests.support.model_server import ModelServer

SOURCE = """
def only_bob(messages):
    return ["bob"]

broken = 1 / 0 if False else None
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution as an installer leaves it."""
    (tmp_path / "choosers.py").write_text(SOURCE)
    info = tmp_path / "choosers-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: choosers\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        f"[{CANDIDATE_FUNCTIONS}]\nonly_bob = choosers:only_bob\nnothing = choosers:broken\n"
        "missing = choosers:none\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "choosers", raising=False)


def _team(function: str) -> TeamSpec:
    return team(
        member("alice"),
        member("bob"),
        kind="selector",
        selector=SelectorSpec(candidate_function=function, allow_repeated_speaker=True),
    )


@pytest.mark.usefixtures("package")
async def test_a_candidate_function_says_who_may_be_chosen(model_server: ModelServer) -> None:
    model_server.reply_with(select)
    run = MemoryRun(_team("only_bob"), [asked()], max_rounds=2, tools={"echo": echo})
    base: TurnDriver = driver(run, model_server.base_url)
    base._components = Components(["choosers"])
    await take_all(run, base)
    assert [result.speaker for result in run.results] == ["bob", "bob"]


@pytest.mark.usefixtures("package")
def test_only_allowed_packages_bring_components() -> None:
    allowed = Components(["choosers"])
    assert ("only_bob", "choosers 1.2") in allowed.offered(CANDIDATE_FUNCTIONS)
    assert Components().offered(CANDIDATE_FUNCTIONS) == []
    assert allowed.problem(CANDIDATE_FUNCTIONS, "only_bob") is None
    for components in (Components(), Components(["other"])):
        assert "AGENTMESH_COMPONENT_PACKAGES" in str(
            components.problem(CANDIDATE_FUNCTIONS, "only_bob")
        )
        with pytest.raises(ComponentError):
            components.candidate_function("only_bob")
    (finding,) = check_team(_team("only_bob"), "t", lambda _: None)
    assert finding.path == "t.selector.candidate_function"


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("name", "says"), [("nothing", "no function"), ("missing", "loaded")])
def test_what_is_no_component_is_said(name: str, says: str) -> None:
    with pytest.raises(ComponentError, match=says):
        Components(["*"]).candidate_function(name)
