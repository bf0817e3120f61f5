"""The same team as the mesh's, on AutoGen alone in this process."""

from __future__ import annotations

from collections.abc import Mapping

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import ChatAgent, Team
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

from bench.harness.model_server import MODEL


def autogen_team(
    base_url: str, instructions: Mapping[str, str], max_turns: int
) -> RoundRobinGroupChat:
    """Streaming assistants that speak in turns, as an AutoGen user would write them."""
    client = OpenAIChatCompletionClient(
        model=MODEL,
        base_url=base_url,
        api_key="bench",
        model_info=ModelInfo(
            vision=False,
            function_calling=True,
            json_output=True,
            family="unknown",
            structured_output=False,
        ),
    )
    agents: list[ChatAgent | Team] = [
        AssistantAgent(name, model_client=client, system_message=message, model_client_stream=True)
        for name, message in instructions.items()
    ]
    return RoundRobinGroupChat(agents, max_turns=max_turns)
