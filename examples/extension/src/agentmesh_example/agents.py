"""Agents: an assistant that prepares what it hears, and one that needs no model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from agentmesh_agent_runtime.extension import (
    AgentSetup,
    ComponentConfig,
    Heard,
    MeshAssistant,
    takes,
)
from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_core import CancellationToken
from pydantic import Field


class CustomAgentConfig(ComponentConfig):
    """What the house means by its words, by word."""

    glossary: dict[str, str] = Field(default_factory=dict)


@takes(CustomAgentConfig)
class CustomAgent(MeshAssistant):
    """An assistant whose model is told what the words of a message mean."""

    def __init__(self, setup: AgentSetup) -> None:
        super().__init__(setup)
        self.config: CustomAgentConfig = setup.config

    async def process_message(self, message: str, context: Heard) -> str:
        """Custom message processing logic."""
        enhanced_message = self.enhance_message(message, context)
        return await super().process_message(enhanced_message, context)

    def enhance_message(self, message: str, context: Heard) -> str:
        """Adds the words that occur, unless this agent said it itself."""
        if context.source == self.name:
            return message
        known = sorted(self.config.glossary.items())
        notes = [f"{word}: {meaning}" for word, meaning in known if word in message]
        return "\n".join([message, "", "In this house:", *notes]) if notes else message


class LotDrawerConfig(ComponentConfig):
    """What there is to draw from."""

    options: list[str] = Field(min_length=2)


@takes(LotDrawerConfig)
class LotDrawer(BaseChatAgent):
    """Draws one of its options, and no option twice while others are left.

    It asks no model. Its draw is chance, so it goes through `once`: whoever repeats the turn after
    a crash draws the same.
    """

    def __init__(self, setup: AgentSetup) -> None:
        super().__init__(setup.id, setup.description)
        self._options: list[str] = setup.config.options
        self._once = setup.once
        self._drawn: list[str] = []

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        """Texts."""
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        """The lot that was drawn."""
        left = [option for option in self._options if option not in self._drawn] or self._options
        lot = await self._once("draw", lambda: random.choice(left))  # noqa: S311  no secret
        self._drawn.append(lot)
        return Response(chat_message=TextMessage(content=f"The lot: {lot}", source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        """Puts all lots back."""
        self._drawn = []

    async def save_state(self) -> Mapping[str, Any]:
        """Goes into the checkpoint of the turn."""
        return {"drawn": list(self._drawn)}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Comes from the checkpoint, perhaps on another machine."""
        self._drawn = list(state["drawn"])
