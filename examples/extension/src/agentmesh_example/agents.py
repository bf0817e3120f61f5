"""Agents: assistants that prepare what they hear, and one that needs no model."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from agentmesh_agent_runtime.extension import (
    AgentSetup,
    ComponentConfig,
    ComponentError,
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
        lot: str = await self._once("draw", lambda: random.choice(left))  # noqa: S311  no secret
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


class DatabaseAgentConfig(ComponentConfig):
    """How many rows are told at most."""

    max_rows: int = Field(default=10, gt=0, le=100)


@takes(DatabaseAgentConfig)
class DatabaseAgent(MeshAssistant):
    """An assistant whose model is told what a database knows of the words of a message.

    Where the database is, and a password if it had one, is the operator's to say, in the runtime's
    environment: configurations of agents are read by everybody who may read agents.
    """

    def __init__(self, setup: AgentSetup) -> None:
        super().__init__(setup)
        self._database = os.environ.get("EXAMPLE_DATABASE", "")
        if not self._database:
            raise ComponentError("EXAMPLE_DATABASE is not set; name the SQLite file there")
        self._max_rows: int = setup.config.max_rows

    async def process_message(self, message: str, context: Heard) -> str:
        """Asks the database once; whoever repeats the turn after a crash is told the same."""
        rows: list[str] = await self.setup.once(
            "facts", lambda: asyncio.to_thread(self._facts, message)
        )
        return "\n".join([message, "", "The database says:", *rows]) if rows else message

    def _facts(self, message: str) -> list[str]:
        words = re.findall(r"\w+", message)
        marks = ", ".join("?" * len(words))
        query = f"SELECT name, fact FROM facts WHERE name IN ({marks}) LIMIT ?"  # noqa: S608  marks
        database = f"file:{self._database}?mode=ro"
        with closing(sqlite3.connect(database, uri=True)) as connection:
            found = connection.execute(query, [*words, self._max_rows]).fetchall()
        return [f"{name}: {fact}" for name, fact in found]


class MinuteTaker(BaseChatAgent):
    """Writes down who said what, with a tool that it calls itself.

    The call is a step like those that models ask for: recorded, told, bound by approvals.
    """

    def __init__(self, setup: AgentSetup) -> None:
        super().__init__(setup.id, setup.description)
        self._tools = setup.tools
        self._minutes: list[str] = []

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        """Texts."""
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        """What the tool answered."""
        self._minutes += [f"- {message.source}: {message.to_text()}" for message in messages]
        content = "\n".join(["# Minutes", "", *self._minutes, ""])
        written = await self._tools.call_tool(
            "code_writer", {"path": "minutes.md", "content": content}
        )
        said = written.to_text()
        text = f"The minutes are not written: {said}" if written.is_error else said
        return Response(chat_message=TextMessage(content=text, source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        """Begins at nothing."""
        self._minutes = []

    async def save_state(self) -> Mapping[str, Any]:
        """What it wrote down."""
        return {"minutes": list(self._minutes)}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """As it was saved."""
        self._minutes = list(state["minutes"])
