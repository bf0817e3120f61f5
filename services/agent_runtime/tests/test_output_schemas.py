"""Answers under a schema: asked of each provider in its way, judged here, and asked for again."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh_agent_runtime.adapters.definitions import agent_to_proto, agent_to_spec
from agentmesh_agent_runtime.definitions.check import check_agent
from agentmesh_agent_runtime.definitions.output_schemas import fits, parsed
from agentmesh_agent_runtime.definitions.yaml_source import load_agents_and_teams
from agentmesh_agent_runtime.models.output_formats import is_strict
from agentmesh_agent_runtime.turns.failures import (
    EndReason,
    InvalidDefinition,
    LeaseLost,
    ModelRefused,
)
from agentmesh_agent_runtime.turns.ports import PartKind, ToolOutput, ToolRequest

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.real_mesh import StartMesh
from services.agent_runtime.tests.wires import Wire
from tests.support.model_server import ModelServer, Reply, ToolCall

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
    },
    "required": ["name", "age"],
    "$defs": {"tag": {"enum": ["a", "b"]}},
}
GOOD = '{"name": "Ann", "age": 7, "tags": ["a"]}'
WRONG = '{"name": "Ann", "age": "seven"}'


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def alice(*, tools: bool = False) -> MemoryRun:
    async def probe(request: ToolRequest) -> ToolOutput:
        return ToolOutput("probed", is_error=False)

    one = agent(
        "alice",
        llm_config={"profile": "fast"},
        output_schema=SCHEMA,
        tools=("probe",) if tools else (),
    )
    # Alone, an agent is done when it has answered; here one round is as much.
    run = MemoryRun(team(one), [asked()], max_rounds=1)
    run.tools = {"probe": probe} if tools else {}
    return run


@pytest.mark.parametrize("structured", [True, False])
async def test_every_provider_is_told_of_the_schema(wire: Wire, structured: bool) -> None:
    wire.settings["structured_output"] = structured
    wire.server.reply_with(Reply(GOOD, reasoning="hm"))
    run = alice()
    await take_all(run, wire.turns(run))
    (body,) = wire.server.requests
    words = json.dumps(body.get("system") or body["messages"])
    if wire.provider in ("openai", "azure_openai"):
        if structured:
            wanted = body["response_format"]
            assert wanted["type"] == "json_schema"
            assert wanted["json_schema"]["schema"] == SCHEMA
            assert wanted["json_schema"]["strict"] is False
        else:
            assert body["response_format"] == {"type": "json_object"}
            assert "minimum" in words
    else:
        assert "minimum" in words
        assert body.get("format") == (SCHEMA if wire.provider == "ollama" else None)
    (message,) = run.said
    kinds = [part.kind for part in message.parts]
    assert kinds == [PartKind.REASONING, PartKind.TEXT, PartKind.DATA]
    assert message.text == GOOD
    assert json.loads(message.parts[-1].text) == json.loads(GOOD)


async def test_an_answer_that_does_not_fit_is_sent_back_and_counted(wire: Wire) -> None:
    wire.server.reply_with([Reply("I am Ann"), Reply(WRONG), Reply(f"```json\n{GOOD}\n```")])
    run = alice()
    await take_all(run, wire.turns(run))
    second, third = (json.dumps(body) for body in wire.server.requests[1:])
    assert "I am Ann" in second
    assert "refused at $: is no JSON" in second
    assert "refused at $.age: 'seven' is not of type 'integer'" in third
    assert [step.step_key for step in run.recorded] == ["alice#1", "alice#2", "alice#3"]
    assert all(step.usage.model_calls == 1 for step in run.recorded)
    assert all(step.usage.output_tokens > 0 for step in run.recorded)
    assert [message.text for message in run.said] == ["", "", f"```json\n{GOOD}\n```"]
    told = [part.text for part in run.said[1].parts]
    assert told == [WRONG, "This answer was refused at $.age: 'seven' is not of type 'integer'"]
    assert json.loads(run.said[2].parts[-1].text) == json.loads(GOOD)


async def test_a_model_that_never_fits_fails_the_run_and_names_the_path(wire: Wire) -> None:
    wire.server.reply_with(Reply(WRONG))
    run = alice()
    with pytest.raises(ModelRefused, match=r"3 answers of alice .* \$\.age: 'seven'") as caught:
        await take_all(run, wire.turns(run))
    assert caught.value.reason is EndReason.MODEL_ERROR
    assert not caught.value.retryable
    assert len(wire.server.requests) == 3
    assert not any(message.text for message in run.said), "a refused answer was said"


async def test_an_agent_with_tools_calls_them_before_it_answers(wire: Wire) -> None:
    wire.server.reply_with([Reply(tool_calls=(ToolCall("probe", "{}"),)), Reply("so"), Reply(GOOD)])
    run = alice(tools=True)
    await take_all(run, wire.turns(run))
    assert len(run.tool_calls) == 1
    first, second, third = wire.server.requests
    assert "probe" in json.dumps(first["tools"])
    assert "probed" in json.dumps(second)
    # What keeps a model to JSON keeps it from calling tools.
    assert "format" not in first
    if wire.provider == "ollama":
        assert third["format"] == SCHEMA
    assert "tools" not in third
    assert run.said[-1].text == GOOD


@pytest.mark.parametrize("killed", ["alice#1", "alice#2", "alice#3"])
async def test_a_killed_turn_asks_for_no_answer_twice(
    model_server: ModelServer, killed: str
) -> None:
    model_server.reply_with([Reply("no"), Reply(WRONG), Reply(GOOD)])
    wire = Wire("openai", model_server)
    run = alice()
    run.die_after = killed
    with pytest.raises(LeaseLost):
        await take_turn(run, wire.turns(run))
    await take_turn(run, wire.turns(run))
    assert len(model_server.requests) == 3
    assert [message.text for message in run.said] == ["", "", GOOD]


async def test_a_reply_that_was_cut_off_is_no_answer(wire: Wire) -> None:
    cut = {"anthropic": "max_tokens"}.get(wire.provider, "length")
    wire.server.reply_with([Reply(GOOD, finish_reason=cut), Reply(GOOD)])
    run = alice()
    await take_all(run, wire.turns(run))
    assert "was cut off" in json.dumps(wire.server.requests[1])


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("", "$", "no JSON"),
        ("{", "$", "no JSON"),
        ('{"a": NaN}', "$", "no JSON"),
        ('{"a": ' + "9" * 400 + "}", "$", "no JSON"),
        ('{"a": 1e999}', "$", "without bound"),
        ("[1]", "$", "no object"),
        ("[" * 100_000, "$", "nested deeper"),
        ('{"a":' * 17 + "1" + "}" * 17, "$", "nested deeper"),
        (f"{GOOD} {GOOD}", "$", "no JSON"),
        ('{"name": "x"}', "$", "'age' is a required property"),
        ('{"name": "x", "age": -1}', "$.age", "less than the minimum"),
        ('{"name": "x", "age": 1, "tags": ["a", "c"]}', "$.tags[1]", "not one of"),
    ],
)
def test_what_does_not_fit_is_told_with_its_path(text: str, where: str, why: str) -> None:
    value, flaw = parsed(text)
    flaw = flaw or fits(value, SCHEMA)
    assert flaw is not None
    assert flaw.where == where
    assert why in flaw.why
    assert len(str(flaw)) < 400


def doubling(dialect: str = "") -> dict[str, Any]:
    """A schema whose check takes twice as long with every definition that it has."""
    links = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    named = {"$schema": dialect} if dialect else {}
    return {"type": "object", "$ref": "#/$defs/d0", "$defs": links | {"d40": {}}, **named}


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "array"}, "type"),
        ({"properties": {}}, "type"),
        ({"type": "object", "properties": {"a": {"type": "number?"}}}, "properties.a.type"),
        ({"type": "object", "required": "a"}, "required"),
        ({"type": "object", "anyOf": [{"minLength": -1}]}, "anyOf[0].minLength"),
        (
            {"type": "object", "properties": {"a": {"$ref": "https://example.com/a"}}},
            "properties.a.$ref",
        ),
        ({"type": "object", "anyOf": [{"$ref": "#/$defs/none"}]}, "anyOf[0].$ref"),
        ({"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}}, "properties.a.pattern"),
        ({"type": "object", "patternProperties": {"a": {}}}, "patternProperties"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "object", "allOf": [{"$ref": "#"}]}, ""),
        ({"type": "object", "default": date(2026, 1, 1)}, ""),
        ({"type": "object", "default": float("nan")}, ""),
        ({"type": "object", "allOf": [nested(2000)]}, ""),
        ({"type": "object", "description": "x" * 70_000}, ""),
        (doubling(), ""),
        (doubling("https://json-schema.org/draft/2020-12/schema"), ""),
        ({"type": "object", "not": {"$schema": "http://a.b"}}, "not.$schema"),
    ],
)
def test_a_schema_that_cannot_be_used_is_a_finding_at_its_path(
    schema: dict[str, Any], path: str
) -> None:
    findings = list(check_agent(agent(output_schema=schema), "agents[0]", lambda _: None))
    assert [f.path for f in findings] == [".".join(["agents[0].output_schema", path]).rstrip(".")]


@pytest.mark.parametrize("dialect", ["", "https://json-schema.org/draft/2020-12/schema"])
def test_an_answer_whose_check_has_no_end_is_the_schemas_fault(dialect: str) -> None:
    schema = doubling(dialect)
    link = {"$ref": schema.pop("$ref")}
    schema |= {"properties": {"inner": {"$ref": "#"}}, "dependentSchemas": {"slow": link}}
    assert fits({"inner": {}}, schema) is None
    flaw = fits({"inner": {"slow": 1}}, schema)
    assert flaw is not None
    assert flaw.unchecked
    assert "too many steps" in flaw.why


async def test_an_answer_that_cannot_be_checked_in_time_ends_the_run_for_the_schema(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(Reply('{"a": "x"}'))
    costly = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}}
    schema = costly | {"$defs": doubling()["$defs"]}
    one = agent("alice", llm_config={"profile": "fast"}, output_schema=schema)
    run = MemoryRun(team(one), [asked()], max_rounds=1)
    with pytest.raises(InvalidDefinition, match="too many steps"):
        await take_all(run, Wire("openai", model_server).turns(run))
    assert len(model_server.requests) == 1


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 2, "1", True, [1], {"a": 1}], True),
        ([1, 1.0], False),
        ([{"a": 1, "b": [2.0]}, {"b": [2], "a": 1}], False),
        ([], True),
        ([{"n": n} for n in range(20_000)], True),
    ],
)
def test_items_are_compared_in_one_pass(items: list[Any], unique: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"uniqueItems": True}}}
    flaw = fits({"a": items}, schema)
    assert (flaw is None) is unique
    assert flaw is None or flaw.where == "$.a"


def test_a_large_answer_is_checked() -> None:
    item = {"name": "Ann", "age": 7, "tags": ["a", "b"]}
    schema = {
        "type": "object",
        "properties": {"all": {"type": "array", "items": {"$ref": "#/$defs/item"}}},
        "$defs": {"item": {k: v for k, v in SCHEMA.items() if k != "$defs"}, **SCHEMA["$defs"]},
    }
    assert fits({"all": [item] * 5000}, schema) is None
    flaw = fits({"all": [*[item] * 5000, {"name": 1, "age": 1}]}, schema)
    assert flaw is not None
    assert flaw.where == "$.all[5000].name"


def test_agents_of_packages_answer_as_they_like() -> None:
    spec = agent(output_schema=SCHEMA, component="poet")
    paths = [finding.path for finding in check_agent(spec, "a", lambda _: None)]
    assert "a.output_schema" in paths


def test_names_of_properties_are_no_keywords() -> None:
    schema = {
        "type": "object",
        "properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}},
        "examples": [{"pattern": "x"}],
    }
    assert not list(check_agent(agent(output_schema=schema), "a", lambda _: None))


def test_only_closed_schemas_are_strict() -> None:
    closed: dict[str, Any] = {
        "type": "object",
        "properties": {"required": {"type": "string"}},
        "required": ["required"],
        "additionalProperties": False,
    }
    assert is_strict(closed)
    assert not is_strict(closed | {"required": []})
    assert not is_strict(closed | {"additionalProperties": True})
    assert is_strict(closed | {"properties": {"required": {"type": "array", "items": closed}}})
    assert not is_strict(closed | {"properties": {"required": {"items": SCHEMA}}})


def test_a_schema_comes_from_yaml_and_survives_the_catalog(tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(
        "alice:\n  output_schema:\n    type: object\n    properties:\n"
        "      code: {type: string, maxLength: 3}\n"
    )
    ([spec], _) = load_agents_and_teams(file)
    assert spec.output_schema["properties"] == {"code": {"type": "string", "maxLength": 3}}
    kept = agent_to_spec(agent_to_proto(spec))
    assert kept == spec
    assert type(kept.output_schema["properties"]["code"]["maxLength"]) is int


async def test_a_mesh_records_data_and_fails_what_never_fits(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    mesh = await start_mesh()
    one = team(agent("alice", output_schema=SCHEMA))
    model_server.reply_with([Reply("no"), Reply(GOOD)])
    conversation = await mesh.begin(one, max_rounds=1)
    ended = await mesh.settled(conversation)
    assert ended.usage.model_calls == 2
    said = [e.message for e in await mesh.events(conversation) if e.message.agent == "alice"]
    assert [p.WhichOneof("kind") for p in said[0].parts] == ["reasoning", "reasoning"]
    assert [p.WhichOneof("kind") for p in said[1].parts] == ["text", "data"]
    assert said[1].parts[1].data.data["age"] == 7
    assert said[1].parts[1].data.media_type == "application/json"
    assert ended.summary == GOOD

    model_server.reply_with(Reply(WRONG))
    conversation = await mesh.begin(one, max_rounds=1)
    ended = await mesh.settled(conversation)
    assert ended.status == conversation_pb2.CONVERSATION_STATUS_FAILED
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_MODEL_ERROR
    assert "$.age: 'seven' is not of type 'integer'" in ended.run.detail
    assert ended.usage.model_calls == 3


async def test_another_schema_is_another_request(model_server: ModelServer) -> None:
    model_server.reply_with(Reply(GOOD))
    run = alice()
    run.die_after = "alice#1"
    turns = driver(run, profiles=[Wire("openai", model_server).profile])
    with pytest.raises(LeaseLost):
        await take_turn(run, turns)
    closed = SCHEMA | {"additionalProperties": False}
    run.team = team(agent("alice", llm_config={"profile": "fast"}, output_schema=closed))
    with pytest.raises(Exception, match="asks for something else"):
        await take_turn(run, turns)
