"""Which fields a mask names, and what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh.catalog.v1.agent_pb2 import AgentDefinition
from agentmesh.gateway.v1.agent_service_pb2 import Agent, AgentConfig
from agentmesh_gateway.definitions.agents import config_of, copied, definition_of, revised
from agentmesh_gateway.field_masks import paths_of, take_over
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict, ParseDict
from meshkit.errors import MeshError

BEFORE: dict[str, Any] = {
    "role": "writes",
    "llm_config": {"model": "gpt-4", "temperature": 0.5, "extra": {"top_p": 1.0, "seed": 1.0}},
    "tools": ["a", "b"],
    "tool_config": {"a": {"enabled": True, "timeout": 3.0}, "b": {"timeout": 4.0}},
    "context": {"head_and_tail": {"head": 2, "tail": 9}},
}


def config(**fields: Any) -> AgentConfig:
    return ParseDict(fields, AgentConfig())


def changed(patch: AgentConfig, *paths: str) -> dict[str, Any]:
    target = config(**BEFORE)
    kept = patch.SerializeToString(deterministic=True)
    take_over(target, patch, paths_of(FieldMask(paths=paths), patch))
    assert patch.SerializeToString(deterministic=True) == kept, "the patch is only read"
    found: dict[str, Any] = MessageToDict(target, preserving_proto_field_name=True)
    return found


def before(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**BEFORE, **fields}.items() if value is not None}


@pytest.mark.parametrize(
    ("patch", "differs"),
    [
        ({"role": "reads"}, {"role": "reads"}),
        ({"role": ""}, {}),
        ({"llm_config": {}}, {}),
        (
            {"llm_config": {"temperature": 0.0}},
            {"llm_config": BEFORE["llm_config"] | {"temperature": 0.0}},
        ),
        (
            {"llm_config": {"extra": {"top_p": 2.0}}},
            {"llm_config": BEFORE["llm_config"] | {"extra": {"top_p": 2.0}}},
        ),
        ({"tools": ["c"]}, {"tools": ["c"]}),
        (
            {"tool_config": {"a": {"timeout": 5.0}, "c": {}}},
            {
                "tool_config": {
                    "a": {"enabled": True, "timeout": 5.0},
                    "b": {"timeout": 4.0},
                    "c": {},
                }
            },
        ),
        # What is 0 in the new choice must not stay as it was.
        (
            {"context": {"head_and_tail": {"tail": 5}}},
            {"context": {"head_and_tail": {"tail": 5}}},
        ),
        ({"context": {"buffered": {"size": 5}}}, {"context": {"buffered": {"size": 5}}}),
        ({"max_tool_iterations": 3}, {"max_tool_iterations": 3}),
    ],
)
def test_without_a_mask_what_has_a_value_is_changed(
    patch: dict[str, Any], differs: dict[str, Any]
) -> None:
    assert changed(config(**patch)) == before(**differs)


@pytest.mark.parametrize(
    ("patch", "paths", "differs"),
    [
        ({"role": "reads", "name": "X"}, ["role"], {"role": "reads"}),
        ({}, ["role"], {"role": None}),
        ({}, ["llm_config"], {"llm_config": None}),
        (
            {"llm_config": {"model": "x", "temperature": 1.0}},
            ["llm_config.temperature"],
            {"llm_config": BEFORE["llm_config"] | {"temperature": 1.0}},
        ),
        (
            {},
            ["llm_config.temperature", "llm_config.extra"],
            {"llm_config": {"model": "gpt-4"}},
        ),
        ({"llm_config": {"model": "x"}}, ["llm_config"], {"llm_config": {"model": "x"}}),
        (
            {"llm_config": {"model": "x"}},
            ["llm_config.model", "llm_config"],
            {"llm_config": {"model": "x"}},
        ),
        ({}, ["tools", "tool_config"], {"tools": None, "tool_config": None}),
        ({}, ["tool_config.a"], {"tool_config": {"b": {"timeout": 4.0}}}),
        ({}, ["tool_config.nobody", "tool_config.nobody.timeout"], {}),
        (
            {"tool_config": {"a": {"timeout": 7.0}}},
            ["tool_config.a.enabled"],
            {"tool_config": {"a": {"timeout": 3.0}, "b": {"timeout": 4.0}}},
        ),
        (
            {"tool_config": {"a": {"timeout": 7.0}, "c": {"timeout": 8.0, "retries": 1}}},
            ["tool_config.a", "tool_config.c.timeout"],
            {"tool_config": {"a": {"timeout": 7.0}, "b": {"timeout": 4.0}, "c": {"timeout": 8.0}}},
        ),
        (
            {"context": {"head_and_tail": {"head": 1, "tail": 5}}},
            ["context.head_and_tail.tail"],
            {"context": {"head_and_tail": {"head": 2, "tail": 5}}},
        ),
        (
            {"context": {"buffered": {"size": 5}}},
            ["context.buffered"],
            {"context": {"buffered": {"size": 5}}},
        ),
        ({"role": "x"}, ["*"], dict.fromkeys(BEFORE) | {"role": "x"}),
        ({}, ["*", "role"], dict.fromkeys(BEFORE)),
    ],
)
def test_a_mask_says_what_is_changed_and_emptied(
    patch: dict[str, Any], paths: list[str], differs: dict[str, Any]
) -> None:
    assert changed(config(**patch), *paths) == before(**differs)


def test_what_is_empty_and_stays_so_is_not_set() -> None:
    target, patch = AgentConfig(), config(llm_config={"model": "x"}, tool_config={"a": {}})
    paths = ["llm_config.temperature", "llm_config.extra", "context.buffered.size", "context"]
    paths += ["context.buffered", "tool_config.b.timeout", "role"]
    take_over(target, patch, paths_of(FieldMask(paths=paths), patch))
    assert not target.ListFields()
    target = config(**BEFORE)
    take_over(target, patch, [("context", "buffered", "size")])
    assert target == config(**BEFORE)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("rôle", '"rôle": no such field; there are name, role, '),
        ("", '"": no such field'),
        ("config.role", '"config": no such field'),
        ("llm_config.temprature", '"llm_config.temprature": no such field; there are model, '),
        ("llm_config.extra.top_p", '"llm_config.extra.top_p": extra is changed as a whole'),
        ("llm_config.timeout.seconds", "timeout is changed as a whole"),
        ("role.x", '"role.x": role is changed as a whole'),
        ("tools.a", "tools is changed as a whole"),
        ("tool_config.", '"tool_config.": a key is missing'),
        ("tool_config.a.wait", '"tool_config.a.wait": no such field; there are enabled, '),
        ("context.kind", '"context.kind": no such field'),
        ("llm_config.", '"llm_config.": no such field'),
    ],
)
def test_a_path_to_no_field_is_refused(path: str, says: str) -> None:
    with pytest.raises(MeshError) as refused:
        paths_of(FieldMask(paths=["role", path]), AgentConfig())
    (violation,) = refused.value.violations
    assert violation.field == "update_mask"
    assert says in violation.description


def test_the_contract_names_what_is_configured_alike_everywhere() -> None:
    def shape(message: Any, name: str) -> tuple[Any, ...]:
        field = message.DESCRIPTOR.fields_by_name[name]
        nested = field.message_type and field.message_type.fields_by_name.get("value")
        of = (nested and nested.message_type) or field.message_type
        return field.type, field.has_presence, of and of.full_name

    for field in AgentConfig.DESCRIPTOR.fields:
        for other in (AgentDefinition, Agent):
            assert shape(other, field.name) == shape(AgentConfig, field.name), field.name


def test_a_definition_is_configured_and_read_back() -> None:
    made = definition_of("poet", config(**BEFORE))
    assert (made.id, made.name) == ("poet", "poet")
    assert config_of(made) == config(**BEFORE, name="poet")
    made.version = 7
    patch = config(name="The poet", role="x")
    renamed = revised(made, patch, [("name",)])
    assert (renamed.id, renamed.name, renamed.version, renamed.role) == (
        *("poet", "The poet", 7),
        "writes",
    )
    assert revised(renamed, AgentConfig(), [("name",)]).name == "poet"
    assert copied(made, "bard").name == "bard"
    assert copied(renamed, "bard").name == "The poet"
