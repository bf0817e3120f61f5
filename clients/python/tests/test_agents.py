"""What an agent is made of, as Python says it."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh.catalog.v1.agent_pb2 import HUMAN_INPUT_MODE_ALWAYS
from agentmesh.catalog.v1.approval_policy_pb2 import EXPIRY_ACTION_REJECT
from agentmesh.common.v1.options_pb2 import ROLE_ADMIN
from agentmesh_client import AgentSettings
from agentmesh_client.agent_settings import configured

EVERYTHING: AgentSettings = {
    "name": "Poet",
    "role": "writes",
    "system_message": "Write.",
    "model": "gpt-4",
    "profile": "careful",
    "temperature": 0.0,
    "max_tokens": 9,
    "timeout": 2.5,
    "model_arguments": {"top_p": 0.5},
    "tools": ("code_executor",),
    "tool_config": {"code_executor": {"timeout": 30, "enabled": False}},
    "handoffs": ("critic",),
    "human_input_mode": "always",
    "context": {"head_and_tail": {"head": 1, "tail": 2}},
    "approvals": (
        {"tools": ("code_*",), "arguments": {"code": "*"}, "role": "ROLE_ADMIN"},
        {"on_expiry": "reject", "expires_after": "60s"},
    ),
    "output_schema": {"type": "object"},
    "budget": {"max_tokens": 50_000, "max_cost_micros": 7},
    "max_tool_iterations": 3,
    "component": "package.Thing",
    "component_config": {"a": [1]},
}


def test_every_setting_of_the_contract_can_be_said() -> None:
    assert EVERYTHING.keys() == AgentSettings.__annotations__.keys()
    config, paths = configured(EVERYTHING)
    set_ = {field.name for field, _ in config.ListFields()}
    assert set_ == {field.name for field in config.DESCRIPTOR.fields}
    inner = {field.name for field, _ in config.llm_config.ListFields()}
    assert inner == {field.name for field in config.llm_config.DESCRIPTOR.fields}
    assert {path.partition(".")[0] for path in paths} == set_
    assert {path[11:] for path in paths if path.startswith("llm_config.")} == inner
    assert config.llm_config.HasField("temperature")
    assert config.llm_config.timeout.ToMilliseconds() == 2500
    assert config.human_input_mode == HUMAN_INPUT_MODE_ALWAYS
    assert config.tool_config["code_executor"].HasField("enabled")
    numbers: Any = config.component_config["a"]
    assert numbers[0] == 1
    assert (config.budget.max_tokens, config.budget.max_cost_micros) == (50_000, 7)
    assert config.approvals[0].role == ROLE_ADMIN
    assert config.approvals[0].arguments["code"] == "*"
    assert config.approvals[1].on_expiry == EXPIRY_ACTION_REJECT


def test_none_empties() -> None:
    nothing: Any = dict.fromkeys(AgentSettings.__annotations__)
    config, paths = configured(nothing)
    assert config.ByteSize() == 0
    assert len(paths) == len(EVERYTHING)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"colour": "red"}, TypeError, "colour"),
        ({"human_input_mode": "sometimes"}, ValueError, "sometimes"),
        ({"context": {"bufered": {"size": 2}}}, ValueError, "bufered"),
        ({"tools": "code_executor"}, ValueError, "tools"),
        ({"tool_config": ["a"]}, ValueError, "tool_config"),
        ({"approvals": [{"rôle": "admin"}]}, ValueError, "rôle"),
        ({"max_tokens": "many"}, ValueError, "many"),
    ],
)
def test_what_the_contract_cannot_hold_is_refused_here(
    settings: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        configured(settings)
