"""A condition on what was said altogether."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_agent_runtime.extension import ComponentConfig, TerminationSetup, takes
from autogen_agentchat.base import TerminatedException, TerminationCondition
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, StopMessage
from pydantic import Field


class WordBudgetConfig(ComponentConfig):
    """How many words the agents may say in a run."""

    max_words: int = Field(gt=0)


class WordBudget(TerminationCondition):
    """Holds when the agents have said so many words. What people say does not count."""

    def __init__(self, max_words: int, agents: Sequence[str]) -> None:
        self._max_words = max_words
        self._agents = frozenset(agents)
        self._words = 0

    @property
    def terminated(self) -> bool:
        """Whether the words are used up."""
        return self._words >= self._max_words

    async def __call__(
        self, messages: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> StopMessage | None:
        """Counts on."""
        if self.terminated:
            raise TerminatedException("the words are used up")
        for message in messages:
            if isinstance(message, BaseChatMessage) and message.source in self._agents:
                self._words += len(message.to_text().split())
        if not self.terminated:
            return None
        return StopMessage(
            content=f"{self._words} of {self._max_words} words were said", source="word_budget"
        )

    async def reset(self) -> None:
        """Begins at nothing."""
        self._words = 0


@takes(WordBudgetConfig)
def word_budget(setup: TerminationSetup) -> TerminationCondition:
    """The factory: a function does as well as a class."""
    return WordBudget(setup.config.max_words, setup.agents)
