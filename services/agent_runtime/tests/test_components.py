"""What installed packages bring: found, allowed, imported, configured. The packages are real."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from agentmesh_agent_runtime.components import (
    ComponentError,
    ComponentKind,
    Components,
    ConfigurationError,
)
from agentmesh_agent_runtime.definitions.check import check_agent, check_team
from agentmesh_agent_runtime.definitions.specs import (
    AgentSpec,
    LlmSettings,
    SelectorSpec,
    TeamSpec,
    TerminationSpec,
)
from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError
from agentmesh_agent_runtime.server import Runtime
from agentmesh_agent_runtime.settings import RuntimeSettings
from agentmesh_agent_runtime.turns.failures import ComponentFailed

from services.agent_runtime.tests.component_package import install
from services.agent_runtime.tests.memory_world import MemoryRun, asked, driver, take_all, team
from services.agent_runtime.tests.test_team_kinds import echo, member, select
from tests.support.model_server import ModelServer

SOURCE = """
import sys
from agentmesh_agent_runtime.extension import ComponentConfig, takes

def only_bob(messages):
    return ["bob"]

def stranger(messages):
    raise RuntimeError("the password is hunter2")

def nobody(messages):
    return []

class Inner(ComponentConfig):
    sizes: list[int] = []

class Config(ComponentConfig):
    inner: Inner = Inner()
    word: str

@takes(Config)
def configured(setup): ...

@takes(dict)
def odd(setup): ...

@takes({"type": 7})
def odd_schema(setup): ...

@takes({
    "type": "object",
    "properties": {"sizes": {"type": "array", "items": {"type": "integer"}}},
    "additionalProperties": False,
})
def by_schema(setup): ...

def raising(setup): raise RuntimeError("the password is hunter2")

broken = None
"""
CANDIDATES = {"only_bob": "only_bob", "stranger": "stranger", "nobody": "nobody"}
POINTS = {
    "agentmesh.candidate_functions": CANDIDATES | {"nothing": "broken", "missing": "none"},
    "agentmesh.agents": {
        "configured": "configured",
        "odd": "odd",
        "odd_schema": "odd_schema",
        "by_schema": "by_schema",
        "plain": "only_bob",
        "raising": "raising",
    },
    "agentmesh.teams": {"raising": "raising"},
    "agentmesh.terminations": {"raising": "raising"},
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution as an installer leaves it."""
    install(tmp_path, monkeypatch, SOURCE, POINTS)


def _team(function: str) -> TeamSpec:
    return team(
        member("alice"),
        member("bob"),
        kind="selector",
        selector=SelectorSpec(candidate_function=function, allow_repeated_speaker=True),
    )


def _fine(_: LlmSettings) -> None:
    """No model is at fault."""


@pytest.mark.usefixtures("package")
async def test_a_candidate_function_says_who_may_be_chosen(model_server: ModelServer) -> None:
    model_server.reply_with(select)
    run = MemoryRun(_team("only_bob"), [asked()], max_rounds=2, tools={"echo": echo})
    await take_all(run, driver(run, model_server.base_url, components=Components(["choosers"])))
    assert [result.speaker for result in run.results] == ["bob", "bob"]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("name", "says"), [("stranger", "RuntimeError"), ("nobody", "no members")])
async def test_a_candidate_function_that_fails_is_named_and_not_quoted(
    model_server: ModelServer, name: str, says: str
) -> None:
    run = MemoryRun(_team(name), [asked()], max_rounds=2)
    with pytest.raises(ComponentFailed, match=says) as failed:
        await take_all(run, driver(run, model_server.base_url, components=Components(["*"])))
    assert name in str(failed.value)
    assert "hunter2" not in str(failed.value)


@pytest.mark.usefixtures("package")
def test_only_allowed_packages_bring_components() -> None:
    kind = ComponentKind.CANDIDATE_FUNCTION
    for allowed in ("choosers", "Choosers", "*"):
        components = Components([allowed])
        assert components.load(kind, "only_bob")([]) == ["bob"]
        names = [(c.kind, c.name) for c in components.offered() if c.distribution == "choosers 1.2"]
        assert (kind, "only_bob") in names
    assert Components(["*", "Choosers", "no-such"]).not_installed() == ["no-such"]
    for components in (Components(), Components(["other"])):
        assert not [c for c in components.offered() if c.distribution == "choosers 1.2"]
        with pytest.raises(ComponentError, match="AGENTMESH_COMPONENT_PACKAGES"):
            components.load(kind, "only_bob")
    (finding,) = check_team(_team("only_bob"), "t", _fine)
    assert finding.path == "t.selector.candidate_function"


@pytest.mark.usefixtures("package")
async def test_what_is_not_allowed_is_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "imported"
    source = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef f(setup): ..."
    (tmp_path / "other").mkdir()
    points = {"agentmesh.agents": {"marks": "f"}}
    install(tmp_path / "other", monkeypatch, source, points, name="marking")
    components = Components(["choosers"])
    await components.prepare([(ComponentKind.AGENT, "marks")])
    components.offered()
    assert not mark.exists()
    await Components(["marking"]).prepare([(ComponentKind.AGENT, "marks")])
    assert mark.exists()


@pytest.mark.usefixtures("package")
async def test_an_import_without_end_keeps_one_thread_and_nobody_else_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(sys, "gate_of_the_import", gate, raising=False)
    (tmp_path / "slow").mkdir()
    source = "import sys\nsys.gate_of_the_import.wait()\ndef f(setup): ..."
    points = {"agentmesh.agents": {"slow": "f"}}
    install(tmp_path / "slow", monkeypatch, source, points, name="slow")
    components = Components(["*"])
    before = set(threading.enumerate())
    try:
        for _ in range(4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await components.prepare([(ComponentKind.AGENT, "slow")])
        started = set(threading.enumerate()) - before
        assert [(thread.name, thread.daemon) for thread in started] == [("import of slow", True)]
        await components.prepare([(ComponentKind.CANDIDATE_FUNCTION, "only_bob")])
        assert components.knows(ComponentKind.CANDIDATE_FUNCTION, "only_bob")
    finally:
        gate.set()
    await components.prepare([(ComponentKind.AGENT, "slow")])
    assert components.knows(ComponentKind.AGENT, "slow")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("name", "says"), [("nothing", "called"), ("missing", "loaded")])
def test_what_is_no_component_is_said(name: str, says: str) -> None:
    with pytest.raises(ComponentError, match=says):
        Components(["*"]).load(ComponentKind.CANDIDATE_FUNCTION, name)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise RuntimeError('the password is hunter2')", "RuntimeError; mend the package"),
        ("import no_such_thing_hunter", "ModuleNotFoundError: there is no module no_such_thing"),
        ("import sys\nsys.exit('hunter2')", "SystemExit"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_an_import_that_fails_is_said_without_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    install(tmp_path, monkeypatch, source, {"agentmesh.agents": {"bad": "f"}})
    components = Components(["choosers"])
    agent = AgentSpec(id="a", component="bad")
    (finding,) = check_agent(agent, "agents[0]", _fine, components=components)
    assert finding.path == "agents[0].component"
    assert says in finding.description
    assert "hunter2" not in finding.description
    (listed,) = components.offered()
    assert listed.problem == finding.description


def test_a_name_that_two_packages_offer_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        points = {"agentmesh.agents": {"both": "f"}}
        install(tmp_path / name, monkeypatch, "def f(setup): ...", points, name=name)
    with pytest.raises(ComponentError, match=r"first 1\.2 and second 1\.2 both offer 'both'"):
        Components(["*"]).load(ComponentKind.AGENT, "both")
    assert Components(["second"]).load(ComponentKind.AGENT, "both") is not None


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("component", "config", "path"),
    [
        ("configured", {"word": "w", "wrd": 1}, "component_config.wrd"),
        ("configured", {}, "component_config.word"),
        (
            "configured",
            {"word": "w", "inner": {"sizes": [1, "x"]}},
            "component_config.inner.sizes[1]",
        ),
        ("plain", {"some": 1}, "component_config.some"),
        ("odd", {}, "component"),
        ("odd_schema", {}, "component"),
        ("by_schema", {"sizes": [1, "x"]}, "component_config.sizes[1]"),
        ("by_schema", {"size": 1}, "component_config"),
        ("nowhere", {}, "component"),
        ("", {"some": 1}, "component_config"),
    ],
)
def test_configurations_are_checked_at_their_place(
    component: str, config: dict[str, Any], path: str
) -> None:
    agent = AgentSpec(id="a", component=component, component_config=config)
    (finding,) = check_agent(agent, "agents[0]", _fine, components=Components(["choosers"]))
    assert finding.path == f"agents[0].{path}"


@pytest.mark.usefixtures("package")
def test_a_configuration_comes_as_the_model_that_was_published() -> None:
    components, kind = Components(["choosers"]), ComponentKind.AGENT
    config = components.configure(kind, "configured", {"word": "w", "inner": {"sizes": [1]}})
    assert config.inner.sizes == [1]
    assert components.configure(kind, "plain", {}) is None
    assert components.configure(kind, "by_schema", {"sizes": [1]}) == {"sizes": [1]}
    with pytest.raises(ConfigurationError):
        components.configure(kind, "configured", {"word": 1})
    (described,) = [c for c in components.offered() if c.name == "configured"]
    assert described.config_schema["required"] == ["word"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"kind": "component"}, "t.component"),
        ({"kind": "component", "component": "nowhere"}, "t.component"),
        ({"component": "chaired"}, "t.component"),
        ({"component_config": {"chair": "a"}}, "t.component_config"),
        ({"termination": TerminationSpec(component="nowhere")}, "t.termination.component"),
        (
            {"termination": TerminationSpec(all_of=(TerminationSpec(component="nowhere"),))},
            "t.termination.all_of[0].component",
        ),
        (
            {"termination": TerminationSpec(max_messages=1, component_config={"x": 1})},
            "t.termination.component_config",
        ),
    ],
)
def test_teams_and_conditions_name_components_where_they_belong(
    fields: dict[str, object], path: str
) -> None:
    spec = team(member("alice"), **fields)
    assert [finding.path for finding in check_team(spec, "t", _fine)] == [path]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("a:\n  role: r\n  component: nowhere\n", "agents.yaml:3: a.component: no allowed package"),
        (
            "a:\n  role: r\n  component: configured\n  component_config:\n    word: 1\n",
            "agents.yaml:5: a.component_config.word",
        ),
        (
            "t:\n  participants: [x]\n  termination:\n    all_of:\n      - component: nowhere\n",
            "agents.yaml:5: t.termination.all_of.0.component",
        ),
    ],
)
@pytest.mark.usefixtures("package")
def test_a_file_that_names_a_component_which_is_not_there_keeps_the_runtime_from_starting(
    tmp_path: Path, document: str, says: str
) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(document)
    with pytest.raises(DefinitionError) as refused:
        Runtime(_settings(file, tmp_path))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (
            "a:\n  role: r\n  component: raising\n",
            "agents.yaml:3: a.component: 'raising' cannot be",
        ),
        (
            "a:\n  role: r\nt:\n  participants: [a]\n  kind: component\n  component: raising\n",
            "agents.yaml:6: t.component: team t: 'raising' cannot be made: RuntimeError",
        ),
        (
            "a:\n  role: r\nt:\n  participants: [a]\n  termination: {component: raising}\n",
            "agents.yaml:5: t.termination.component: 'raising' cannot be made",
        ),
    ],
)
@pytest.mark.usefixtures("package")
async def test_a_file_that_names_a_factory_which_raises_does_so_too(
    tmp_path: Path, document: str, says: str
) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(document)
    runtime = Runtime(_settings(file, tmp_path))
    with pytest.raises(DefinitionError) as refused:
        await runtime.host.start()
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)


def _settings(agents_file: Path, folder: Path) -> RuntimeSettings:
    return RuntimeSettings(
        agents_file=agents_file,
        component_packages="choosers",
        grpc_port=0,
        data_dir=folder / "data",
    )
