"""Definitions: what is shipped, what a broken file is told, what cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agentmesh_agent_runtime.adapters.definitions import (
    agent_to_proto,
    agent_to_spec,
    team_to_proto,
    team_to_spec,
)
from agentmesh_agent_runtime.definitions.check import check_agent, check_team
from agentmesh_agent_runtime.definitions.shipped import load_definitions
from agentmesh_agent_runtime.definitions.specs import (
    AgentSpec,
    HumanInputMode,
    LlmSettings,
    TeamKind,
    TeamSpec,
    TerminationSpec,
)
from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError, load_agents
from agentmesh_agent_runtime.models.catalog import ModelCatalog, ModelDefaults
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.turns.termination import Utterance, why_done

from services.agent_runtime.tests.memory_world import agent, team


def catalog(**defaults: str) -> ModelCatalog:
    return ModelCatalog(ModelDefaults(**defaults), Script((), Path()))  # type: ignore[arg-type]


def test_the_shipped_definitions_run_and_survive_the_catalog() -> None:
    shipped = load_definitions()
    assert [a.id for a in shipped.agents] == ["project_manager", "developer", "reviewer"]
    developer = shipped.agents[1]
    assert developer.tools == ("code_writer", "code_executor", "file_manager")
    assert developer.human_input_mode is HumanInputMode.TERMINATE
    assert developer.llm_config.temperature == 0.1
    for one in shipped.agents:
        assert list(check_agent(one, "agent", catalog().problem)) == []
        assert agent_to_spec(agent_to_proto(one)) == one
    for spec in shipped.teams:
        known = [a.id for a in shipped.agents]
        assert list(check_team(spec, "team", catalog().problem, known)) == []
        assert team_to_spec(team_to_proto(spec)) == spec


def test_an_agents_file_adds_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text("poet:\n  role: Writes poems\nreviewer:\n  role: Reads poems\n")
    agents = {a.id: a for a in load_definitions(file).agents}
    assert agents["poet"].role == "Writes poems"
    assert agents["reviewer"].role == "Reads poems"
    assert agents["developer"].tools


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {toolz: []}", r"agents.yaml:1: a\.toolz: unknown field; did you mean 'tools'"),
        ("a:\n  role: x\n  llm_config:\n    modle: y", r":4: a\.llm_config\.modle: .*'model'"),
        ("a:\n  llm_config: {temperature: 9}", r":2: a\.llm_config\.temperature: .*less than"),
        ("a:\n  tools: [x, x]", r":2: a\.tools: .*twice"),
        ("a:\n  human_input_mode: SOMETIMES", r":2: a\.human_input_mode: .*'NEVER'"),
        ("my agent:\n  role: x", r":1: my agent\.id: .*letters, digits and underscores"),
        ("a:\n  role: [", r"agents.yaml:\d+:\d+: is no YAML"),
        ("- a\n- b", r":1: expected a mapping of agent ids.*found a list"),
        ("a:\n  role: x\na:\n  role: y", r":3: a is defined twice \(first in line 1\)"),
        ("a: 3", r":1: a: expected fields, found int"),
    ],
)
def test_a_broken_file_is_told_file_line_path_and_remedy(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(text)
    with pytest.raises(DefinitionError, match=says):
        load_agents(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"none\.yaml: cannot be read"):
        load_agents(tmp_path / "none.yaml")


def test_an_unknown_model_is_a_finding_unless_a_server_may_know_it() -> None:
    odd = AgentSpec(id="a", llm_config=LlmSettings(model="my-model"))
    (finding,) = check_agent(odd, "agents[0]", catalog().problem)
    assert finding.path == "agents[0].llm_config.model"
    assert "OPENAI_BASE_URL" in finding.description
    assert list(check_agent(odd, "a", catalog(base_url="http://x/v1").problem)) == []


def test_each_finding_names_its_path() -> None:
    broken = TeamSpec(
        id="t",
        kind=TeamKind.SWARM,
        participants=(agent("a", tool_config={"x": {}}), agent("a", handoffs=("b",)), "nobody"),
        stages=({"name": "s", "agent": "c"},),  # type: ignore[arg-type]  # pydantic converts
        termination=TerminationSpec(sources=("d",)),
    )
    server = catalog(base_url="http://x/v1")
    paths = [f.path for f in check_team(broken, "teams[0]", server.problem, ["a"])]
    assert paths == [
        "teams[0].kind",
        "teams[0].participants[0].agent.tool_config.x",
        "teams[0].participants[1].agent.handoffs",
        "teams[0].participants[2]",
        "teams[0].participants[1]",
        "teams[0].stages[0].agent",
        "teams[0].termination.sources[0]",
    ]


def test_without_a_key_every_model_is_the_scripted_one() -> None:
    settings = LlmSettings(model="gpt-4")
    assert catalog().resolve(settings).model == "scripted"
    assert catalog(api_key="k").resolve(settings).model == "gpt-4"
    assert catalog(api_key="k").resolve(LlmSettings(model="scripted")).model == "scripted"
    assert catalog(api_key="k", model="gpt-4o").resolve(LlmSettings()).model == "gpt-4o"
    assert catalog().stands_in_for(settings) == "gpt-4"
    assert catalog(api_key="k").stands_in_for(settings) is None


async def test_settings_without_end_share_one_connection() -> None:
    models = catalog(api_key="k", base_url="http://x/v1")
    patient = [
        models.resolve(LlmSettings(model="m", temperature=n / 100, timeout=1 + n))
        for n in range(100)
    ]
    sources = [source._source for source in patient]  # type: ignore[attr-defined]
    connections = {id(source._connection) for source in sources}
    assert len(connections) == 1
    assert len({json.dumps(s._client._create_args, default=str) for s in sources}) == 100
    await models.close()
    assert sources[0]._connection.is_closed()


def said(*pairs: tuple[str, str]) -> list[Utterance]:
    return [Utterance(who, text) for who, text in pairs]


@pytest.mark.parametrize(
    ("condition", "messages", "done"),
    [
        ({}, said(("a", "we TERMINATE")), True),
        ({}, said(("user", "never say TERMINATE")), False),
        ({"text_mentions": ["OK"]}, said(("a", "TERMINATE")), False),
        ({"text_mentions": ["OK"], "text_mention_sources": ["b"]}, said(("a", "OK")), False),
        ({"text_mentions": ["OK"], "text_mention_sources": ["b"]}, said(("b", "OK")), True),
        ({"max_messages": 2}, said(("user", "x"), ("a", "y")), True),
        ({"max_messages": 3}, said(("user", "x"), ("a", "y")), False),
        ({"sources": ["b"]}, said(("a", "x"), ("b", "y")), True),
        (
            {"all_of": [{"sources": ["a"]}, {"text_mentions": ["OK"]}]},
            said(("a", "x"), ("b", "OK")),
            True,
        ),
        ({"all_of": [{"sources": ["a"]}, {"text_mentions": ["OK"]}]}, said(("b", "OK")), False),
    ],
)
def test_termination_is_judged_by_what_was_said(
    condition: dict[str, object], messages: list[Utterance], done: bool
) -> None:
    spec = team(agent("a"), agent("b"), termination=condition)
    assert (why_done(spec, messages) is not None) == done


def test_a_single_agent_is_done_when_it_has_answered() -> None:
    spec = team(agent("a"), kind=TeamKind.SINGLE)
    assert why_done(spec, said(("user", "hi"), ("a", "hello")))
    assert not why_done(spec, said(("user", "hi")))
