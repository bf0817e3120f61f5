"""Definitions: what is shipped, what a broken file is told, what cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agentmesh.catalog.v1 import agent_pb2
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
    StageSpec,
    TeamKind,
    TeamSpec,
    TerminationSpec,
)
from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError, load_agents_and_teams
from agentmesh_agent_runtime.models.catalog import ModelCatalog, ModelDefaults
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.turns.termination import Utterance, why_done
from google.protobuf.json_format import MessageToDict, ParseDict

from services.agent_runtime.tests.memory_world import agent, team


def catalog(**defaults: Any) -> ModelCatalog:
    return ModelCatalog(ModelDefaults(**defaults), Script((), Path()))


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


def test_a_file_has_teams_of_every_kind_and_teams_within_teams(tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(TEAMS)
    shipped = load_definitions(file)
    teams = {team.id: team for team in shipped.teams}
    known = [a.id for a in shipped.agents]
    for spec in teams.values():
        assert list(check_team(spec, "team", catalog().problem, known)) == []
        assert team_to_spec(team_to_proto(spec)) == spec
    assert teams["desk"].participants[0] == teams["pair"]
    assert teams["flow"].graph.edges[1].condition == "REVISE"
    assert teams["software_development"].stages, "what is shipped is there as well"


def test_the_teams_of_the_documentation_can_run(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "agents.md").read_text()
    (block,) = [part for part in text.split("```yaml\n")[1:] if "hot_seat" in part]
    file = tmp_path / "agents.yaml"
    file.write_text(block.split("```")[0])
    shipped = load_definitions(file)
    known = [a.id for a in shipped.agents]
    assert {t.kind for t in shipped.teams} == set(TeamKind) - {TeamKind.SINGLE, TeamKind.COMPONENT}
    for spec in shipped.teams:
        findings = [f.path for f in check_team(spec, spec.id, catalog().problem, known)]
        assert [f for f in findings if not f.endswith("candidate_function")] == []


TEAMS = """
poet: {role: Writes poems, handoffs: [critic]}
critic: {role: Reads poems, handoffs: [poet, editor]}
pair:
  kind: selector
  participants: [poet, critic]
  selector: {allow_repeated_speaker: true, prompt: "{roles} {participants} {history}"}
  max_rounds: 4
desk:
  participants: [pair, reviewer]
hot:
  kind: swarm
  participants: [poet, critic]
  termination: {handoff_to: [editor]}
flow:
  kind: graph
  participants: [poet, critic, reviewer]
  graph:
    entry_points: [poet]
    edges:
      - {from: poet, to: critic}
      - {from: critic, to: poet, condition: REVISE, activation_group: again}
      - {from: critic, to: reviewer, condition: APPROVE}
boss:
  kind: magentic_one
  participants: [poet, critic]
  orchestrator: {model: gpt-4, temperature: 0}
"""


@pytest.mark.parametrize(
    ("team", "path"),
    [
        ("kind: graph\n  graph: {edges: [{from: poet, to: x}]}", "graph.edges[0].to_agent"),
        ("kind: graph\n  graph: {entry_points: [x]}", "graph.entry_points[0]"),
        (
            "kind: graph\n  graph: {edges: [{from: poet, to: critic}, {from: critic, to: poet}]}",
            "graph.edges",
        ),
        ("kind: selector\n  selector: {prompt: '{tasks}'}", "selector.prompt"),
        ("kind: selector\n  selector: {prompt: '{'}", "selector.prompt"),
        ("kind: selector\n  selector: {candidate_function: x}", "selector.candidate_function"),
        ("kind: selector\n  selector: {llm_config: {model: odd}}", "selector.llm_config.model"),
        ("kind: magentic_one\n  orchestrator: {model: odd}", "orchestrator.model"),
        ("selector: {prompt: x}", "selector"),
        ("graph: {edges: [{from: poet, to: critic}]}", "graph"),
        ("kind: swarm\n  stages: [{name: s, agent: poet}]", "stages"),
    ],
)
def test_what_a_kind_cannot_use_is_found_at_its_path(tmp_path: Path, team: str, path: str) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(
        f"poet: {{role: x}}\ncritic: {{role: x}}\nt:\n  participants: [poet, critic]\n  {team}"
    )
    spec = next(team for team in load_definitions(file).teams if team.id == "t")
    assert path in [f.path.removeprefix("t.") for f in check_team(spec, "t", catalog().problem)]


def test_a_team_within_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text("a: {participants: [b]}\nb: {participants: [a]}")
    with pytest.raises(DefinitionError, match="a > b > a"):
        load_definitions(file)


@pytest.mark.parametrize("depth", [8, 9])
def test_runs_of_their_own_are_nested_so_deep(depth: int) -> None:
    nested = TeamSpec(id="t0", participants=(agent("a"),))
    for level in range(depth):
        within = nested.model_copy(update={"own_run": True})
        nested = TeamSpec(id=f"t{level + 1}", participants=(within,))
    findings = list(check_team(nested, "t", catalog(base_url="http://x/v1").problem))
    assert [finding.path for finding in findings] == ["t"] * (depth - 8)


def test_teams_within_teams_have_their_rules() -> None:
    stages = (StageSpec(name="s", agent="a"),)
    inner = TeamSpec(id="inner", participants=(agent("a"),), stages=stages)
    outer = TeamSpec(id="outer", kind=TeamKind.MAGENTIC_ONE, participants=(inner,))
    paths = [f.path for f in check_team(outer, "t", catalog(base_url="http://x/v1").problem)]
    assert paths == ["t.participants[0].team", "t.participants[0].team.stages"]


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
        ("a:\n  context: {buffered: 2, tail: 3}", r":2: a\.context: .*buffered and head and tail"),
        ("a:\n  context: {head: 3}", r":2: a\.context: .*head without tail"),
        ("a:\n  context:\n    token_limited: {max_tokens: 0}", r":3: .*token_limited\.max_tokens"),
        ("a:\n  context:\n    summarizing: {keep: 3}", r":3: .*summarizing\.max_tokens: field"),
        ("a:\n  context: {summarising: {}}", r":2: .*did you mean 'summarizing'"),
        (
            "a:\n  tools: [ask_human]\n  tool_config:\n    ask_human: {timeout: 1.0e+12}",
            r":4: a\.tool_config\.ask_human\.timeout: .*less than or equal to 31622400",
        ),
        ("a: 3", r":1: a: expected fields, found int"),
    ],
)
def test_a_broken_file_is_told_file_line_path_and_remedy(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(text)
    with pytest.raises(DefinitionError, match=says):
        load_agents_and_teams(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"none\.yaml: cannot be read"):
        load_agents_and_teams(tmp_path / "none.yaml")


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
        "teams[0].participants[0].agent.tool_config.x",
        "teams[0].participants[2]",
        "teams[0].participants[1]",
        "teams[0].stages[0].agent",
        "teams[0].termination.sources[0]",
        "teams[0].stages",
        "teams[0].participants[1].agent.handoffs[0]",
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("buffered: 20", {"buffered": {"size": 20}}),
        ("head: 1\n    tail: 9", {"head_and_tail": {"head": 1, "tail": 9}}),
        ("token_limited: {max_tokens: 900}", {"token_limited": {"max_tokens": 900}}),
        (
            "summarizing: {max_tokens: 900, keep: 4}",
            {"summarizing": {"max_tokens": 900, "keep": 4}},
        ),
        ("summarizing: {max_tokens: 900}", {"summarizing": {"max_tokens": 900}}),
    ],
)
def test_every_context_comes_from_yaml_and_survives_the_catalog(
    tmp_path: Path, written: str, expected: dict[str, object]
) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(f"a:\n  context:\n    {written}\n")
    (one,), _ = load_agents_and_teams(file)
    proto = agent_to_proto(one)
    as_json = MessageToDict(proto.context, preserving_proto_field_name=True)
    assert as_json == expected
    assert ParseDict(expected, agent_pb2.ContextPolicy()) == proto.context
    assert agent_to_spec(proto) == one


def test_a_context_without_room_for_messages_is_a_finding() -> None:
    context = {"summarizing": {"max_tokens": 60}}
    wordy = agent("a", system_message="word " * 60, context=context)
    (finding,) = check_agent(wordy, "agents[0]", catalog(base_url="http://x/v1").problem)
    assert finding.path == "agents[0].context.summarizing.max_tokens"
    assert "the system message takes" in finding.description
    brief = agent("a", tools=("t",), context=context)
    problem = catalog(base_url="http://x/v1").problem
    assert list(check_agent(brief, "a", problem, {"t": 59})) == []
    (finding,) = check_agent(brief, "a", problem, {"t": 60})
    assert "tools 60" in finding.description
    hidden = agent("a", tools=("t",), tool_config={"t": {"enabled": False}}, context=context)
    assert list(check_agent(hidden, "a", problem, {"t": 60})) == []


def test_a_stage_that_leaves_no_room_is_a_finding() -> None:
    member = agent("a", system_message="Be brief.", context={"token_limited": {"max_tokens": 60}})
    stages = (
        {"name": "short", "agent": "a", "instructions": "Go."},
        {"name": "long", "agent": "a", "instructions": "word " * 60},
    )
    (finding,) = check_team(
        team(member, stages=stages), "teams[0]", catalog(base_url="http://x/v1").problem
    )
    assert finding.path == "teams[0].stages[1].instructions"


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
    patient: list[Any] = [
        models.resolve(LlmSettings(model="m", temperature=n / 100, timeout=1 + n))
        for n in range(100)
    ]
    sources = [source._source for source in patient]
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
