"""What is mended in AutoGen 0.7.5. Each mend has a test that fails without it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage
from autogen_core import CancellationToken, FunctionCall
from autogen_core.models import FunctionExecutionResult
from autogen_core.tools import BaseTool, Workbench

from agentmesh_agent_runtime.turns.tool_step import RecordedTools

# Spans of AutoGen's runtime carry whole messages in their attributes and slow a team down by a
# factor of four; each of its runtimes reads this when it is made.
NO_RUNTIME_TRACING = "AUTOGEN_DISABLE_RUNTIME_TRACING"
os.environ[NO_RUNTIME_TRACING] = "true"

# Its loggers write whole messages at INFO, and a traceback for every model error that is reported
# to the run anyway.
for _name in ("autogen_core", "autogen_agentchat"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

Executed = tuple[FunctionCall, FunctionExecutionResult]


class MeshAgent(AssistantAgent):
    """An AssistantAgent all of whose tool calls reach its workbench.

    AutoGen answers malformed arguments and unknown tools by itself, so that the log would show a
    call without a result; and it waits for ever if a call raises or is cancelled (microsoft/autogen
    #7956, #7100).
    """

    component_provider_override = "agentmesh_agent_runtime.mends.MeshAgent"

    @staticmethod
    async def _execute_tool_call(
        tool_call: FunctionCall,
        workbench: Sequence[Workbench],
        handoff_tools: list[BaseTool[Any, Any]],
        agent_name: str,
        cancellation_token: CancellationToken,
        stream: asyncio.Queue[BaseAgentEvent | BaseChatMessage | None],
    ) -> Executed:
        recorded = next((wb for wb in workbench if isinstance(wb, RecordedTools)), None)
        if recorded is None or any(tool.name == tool_call.name for tool in handoff_tools):
            return await AssistantAgent._execute_tool_call(
                tool_call, workbench, handoff_tools, agent_name, cancellation_token, stream
            )
        output = await recorded.carry_out(tool_call.name, tool_call.id)
        return tool_call, FunctionExecutionResult(
            content=output.text, call_id=tool_call.id, is_error=output.is_error, name=tool_call.name
        )
