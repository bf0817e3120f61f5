"""The built-in assistant as a base of agents of one's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, MultiModalMessage
from autogen_core import CancellationToken

from agentmesh_agent_runtime.components import ComponentError
from agentmesh_agent_runtime.extension.setups import AgentSetup, Heard
from agentmesh_agent_runtime.mends import MendedAssistant


class MeshAssistant(MendedAssistant):
    """AutoGen's AssistantAgent with the model, the tools and the context of its definition.

    `arguments` go to AssistantAgent and win over what the definition says. Everything that it asks
    and calls is recorded, malformed calls and handoffs included.
    """

    component_provider_override = "agentmesh_agent_runtime.extension.assistant.MeshAssistant"

    def __init__(self, setup: AgentSetup, **arguments: Any) -> None:
        self.setup = setup
        try:
            super().__init__(**(assistant_arguments(setup) | arguments))
        except ValueError as error:
            # AutoGen says what does not fit, as tools do not to a model that calls no functions.
            raise ComponentError(str(error)) from error

    async def process_message(self, message: str, context: Heard) -> str:
        """The text of a message as the model is to see it, before it is remembered.

        It is processed again on each attempt at its turn, so it must come out the same: use
        `setup.once` for what depends on time, chance or the world.
        """
        return message

    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        """Answers the messages as they are after `process_message`."""
        processed = [await self._processed(message) for message in messages]
        async for item in super().on_messages_stream(processed, cancellation_token):
            yield item

    async def _processed(self, message: BaseChatMessage) -> BaseChatMessage:
        content = getattr(message, "content", None)
        heard = Heard(message.source, self.setup.turn(), message.metadata)
        if isinstance(content, str):
            return message.model_copy(
                update={"content": await self.process_message(content, heard)}
            )
        if isinstance(message, MultiModalMessage):
            parts = [
                await self.process_message(part, heard) if isinstance(part, str) else part
                for part in message.content
            ]
            return message.model_copy(update={"content": parts})
        return message


def assistant_arguments(setup: AgentSetup) -> dict[str, Any]:
    """How the mesh makes an AssistantAgent of a definition."""
    return {
        "name": setup.id,
        "model_client": setup.model,
        "workbench": [setup.tools],
        # AutoGen refuses even an empty list where the model calls no functions.
        "handoffs": list(setup.handoffs) or None,
        "description": setup.description,
        "system_message": setup.system_message or None,
        # Replies reach subscribers from the recorded model, whole ones the team.
        "model_client_stream": False,
        # So that each turn's last message is a model step's own.
        "reflect_on_tool_use": True,
        "max_tool_iterations": setup.max_tool_iterations,
        "model_context": setup.model_context,
    }
