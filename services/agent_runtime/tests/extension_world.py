"""Teams of components: those of the example package, and of one that does everything wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentmesh_agent_runtime.components import Components
from agentmesh_agent_runtime.definitions.specs import (
    TeamKind,
    TeamSpec,
    TerminationSpec,
)
from agentmesh_agent_runtime.turns.driver import TurnDriver

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    team,
)
from services.agent_runtime.tests.test_team_kinds import (
    echo,
    member,
)
from tests.support.model_server import ModelServer

OPTIONS = ["one", "two", "three", "four"]
SOURCE = (Path(__file__).parent / "odd_components.py").read_text()
NAMES = [
    line.split("(")[0].removeprefix("class ").removeprefix("def ")
    for line in SOURCE.splitlines()
    if line.startswith(("class ", "def "))
]


def custom(name: str, **fields: Any) -> Any:
    """An agent of the example package."""
    return member(name, component="custom_agent", **fields)


def lots(name: str = "chair", **fields: Any) -> Any:
    return agent(name, component="draw_lots", component_config={"options": OPTIONS}, **fields)


def chaired(*others: Any, **fields: Any) -> TeamSpec:
    """A team of the example package."""
    return team(
        lots(),
        *others,
        kind=TeamKind.COMPONENT,
        component="chaired",
        component_config={"chair": "chair"},
        **fields,
    )


MEETING = chaired(
    custom("writer", component_config={"glossary": {"lot": "what chance says"}}, tools=("echo",)),
    member("critic"),
)
TEAMS = {
    "chaired": MEETING,
    "nested": team(
        member("carol"),
        chaired(custom("writer"), id="inner", max_rounds=4),
        termination=TerminationSpec(max_messages=30),
    ),
    "wave": team(
        custom("bob"),
        member("alice", component="EchoAgent"),
        kind=TeamKind.COMPONENT,
        component="AllAtOnce",
    ),
    "calls by itself": team(agent("caller", component="Caller", tools=("echo",)), member("bob")),
    "drafts": team(member("drafter", component="Drafter"), member("bob")),
    "plain assistant": team(member("plain", component="Plain", tools=("echo",)), member("bob")),
}


def hosting(run: MemoryRun, server: ModelServer, **fields: Any) -> TurnDriver:
    """A driver to which all packages are allowed."""
    return driver(run, server.base_url, components=Components(["*"]), **fields)


def run_of(kind: str) -> MemoryRun:
    return MemoryRun(TEAMS[kind], [asked("begin")], max_rounds=4, tools={"echo": echo})
