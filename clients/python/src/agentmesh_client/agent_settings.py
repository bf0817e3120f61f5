"""What an agent is made of, as Python says it and as the contract says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from agentmesh.gateway.v1.agent_service_pb2 import AgentConfig
from google.protobuf.json_format import ParseDict, ParseError


class AgentSettings(TypedDict, total=False):
    """Settings of an agent. What is None is empty, or has the mesh's default."""

    name: str | None
    """For people; its id if empty."""
    role: str | None
    """What it is for; selectors choose by it."""
    system_message: str | None
    """The instructions for its model."""
    model: str | None
    """The name of a model, or of a model profile."""
    profile: str | None
    """The name of a model profile."""
    temperature: float | None
    max_tokens: int | None
    """Of one reply."""
    timeout: float | None
    """Seconds for one reply."""
    model_arguments: Mapping[str, Any] | None
    """Further arguments for the model server, passed through."""
    tools: Sequence[str] | None
    tool_config: Mapping[str, Mapping[str, Any]] | None
    """Settings for single tools: {"code_executor": {"timeout": 30}}."""
    handoffs: Sequence[str] | None
    """Agents that it may hand the conversation to."""
    human_input_mode: str | None
    """ "NEVER", "TERMINATE" or "ALWAYS"."""
    context: Mapping[str, Any] | None
    """As the contract has it: {"buffered": {"size": 20}}."""
    approvals: Sequence[Mapping[str, Any]] | None
    """Tool calls that a person has to approve: [{"tools": ["code_*"], "role": "admin"}]."""
    output_schema: Mapping[str, Any] | None
    """A JSON Schema that its answers have to be valid under."""
    budget: Mapping[str, Any] | None
    """What it may consume in one run: {"max_tokens": 50_000, "max_cost_micros": 1_000_000}."""
    max_tool_iterations: int | None
    component: str | None
    """A component of an installed package in place of the built-in agent."""
    component_config: Mapping[str, Any] | None


_OF_THE_MODEL = {
    "model": "model",
    "profile": "profile",
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "timeout": "timeout",
    "model_arguments": "extra",
}


def configured(settings: AgentSettings) -> tuple[AgentConfig, list[str]]:
    """The contract's configuration, and the paths in it that these settings are about.

    Raises ValueError for a value that the contract cannot hold, TypeError for an unknown setting.
    """
    document: dict[str, Any] = {}
    paths: list[str] = []
    for name, value in settings.items():
        if name not in AgentSettings.__annotations__:
            raise TypeError(f"an agent has no setting {name!r}")
        within = _OF_THE_MODEL.get(name)
        paths.append(f"llm_config.{within}" if within else name)
        if value is not None:
            part = document.setdefault("llm_config", {}) if within else document
            part[within or name] = f"{value}s" if name == "timeout" else value
    try:
        return ParseDict(_spelled(AgentConfig.DESCRIPTOR, document), AgentConfig()), paths
    except ParseError as error:
        raise ValueError(str(error)) from None


def _spelled(message: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with sequences as lists, and short words for enum values, such as "always",
    written out."""
    fields = message.fields_by_name
    return {
        name: _value_spelled(fields[name], value) if name in fields else value
        for name, value in document.items()
    }


def _value_spelled(field: Any, value: Any) -> Any:
    nested = field.message_type
    if field.enum_type is not None and isinstance(value, str):
        return _enum_name(field.enum_type, value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_value_spelled(field, item) for item in value]
    if nested is None or nested.full_name.startswith("google.protobuf."):
        return value
    if not isinstance(value, Mapping):
        return value
    if nested.GetOptions().map_entry:
        of = nested.fields_by_name["value"]
        return {key: _value_spelled(of, item) for key, item in value.items()}
    return _spelled(nested, value)


def _enum_name(enum: Any, word: str) -> str:
    full: str = enum.values[0].name.removesuffix("UNSPECIFIED") + word.upper()
    return full if full in enum.values_by_name else word
