"""How many tokens messages and tools take in a request, by the estimate of `definitions.tokens`."""

from __future__ import annotations

import json

from autogen_core import FunctionCall
from autogen_core.models import AssistantMessage, FunctionExecutionResult, LLMMessage

from agentmesh_agent_runtime.definitions.tokens import IMAGE_TOKENS, MESSAGE_TOKENS, estimate
from agentmesh_agent_runtime.turns.ports import ToolSchema


def of_tool(schema: ToolSchema) -> int:
    """Tokens of a tool's description, as the model is told of it."""
    parameters = json.dumps(schema.parameters, ensure_ascii=False)
    return MESSAGE_TOKENS + sum(map(estimate, (schema.name, schema.description, parameters)))


def of_message(message: LLMMessage) -> int:
    """Tokens of a message with everything in it."""
    content = message.content
    if isinstance(content, str):
        size = MESSAGE_TOKENS + estimate(content)
    else:
        # Each result of a tool goes out as a message of its own.
        size = MESSAGE_TOKENS + sum(map(_of_item, content))
    if isinstance(message, AssistantMessage) and message.thought:
        size += estimate(message.thought)
    return size + estimate(getattr(message, "source", ""))


def _of_item(item: object) -> int:
    match item:
        case str():
            return estimate(item)
        case FunctionCall():
            return MESSAGE_TOKENS + sum(map(estimate, (item.id, item.name, item.arguments)))
        case FunctionExecutionResult():
            return MESSAGE_TOKENS + sum(map(estimate, (item.call_id, item.name, item.content)))
    return IMAGE_TOKENS
