"""What one model reply may consume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from autogen_core.models import LLMMessage

from agentmesh_agent_runtime.models import prompt_length
from agentmesh_agent_runtime.models.prices import NO_PRICES, Prices, ReplyBound
from agentmesh_agent_runtime.turns.failures import BudgetExhausted
from agentmesh_agent_runtime.turns.ports import Consumption

DEFAULT_REPLY_TOKENS = 4000
"""Of a reply that nothing else bounds."""
LEAST_REPLY_TOKENS = 16
"""For less than that a model is not asked."""


@dataclass(frozen=True)
class Allowance:
    """Tokens that a request is estimated to have, and that its reply may have.

    A reply that is `cut` gets less than was asked for: the run's budget leaves no more, which the
    model server does not know.
    """

    request_tokens: int
    reply_tokens: int
    prices: Prices = NO_PRICES
    cut: bool = False

    @classmethod
    def of(
        cls, messages: Sequence[LLMMessage], tools: Sequence[Any], bound: ReplyBound
    ) -> Allowance:
        """Estimated at four characters a token."""
        characters = prompt_length.characters(messages) + sum(len(str(t)) for t in tools)
        return cls(
            characters // prompt_length.CHARACTERS_PER_TOKEN,
            bound.tokens or DEFAULT_REPLY_TOKENS,
            bound.prices,
        )

    @property
    def reservation(self) -> Consumption:
        """What is held until the reply is recorded."""
        return self._priced(self.reply_tokens)

    def consumed(self, characters: int) -> Consumption:
        """What a reply has cost that failed after so many characters; nothing before the first."""
        if not characters:
            return Consumption()
        tokens = min(self.reply_tokens, max(1, characters // prompt_length.CHARACTERS_PER_TOKEN))
        return self._priced(tokens)

    def _priced(self, reply_tokens: int) -> Consumption:
        tokens = Consumption(
            input_tokens=self.request_tokens, output_tokens=reply_tokens, model_calls=1
        )
        return replace(tokens, cost_micros=self.prices.cost(tokens))

    def within(self, tokens: int) -> Allowance | None:
        """With what is left; None if that is too little."""
        left = min(tokens - self.request_tokens, self.reply_tokens)
        if left < LEAST_REPLY_TOKENS:
            return None
        return replace(self, reply_tokens=left, cut=True)

    def within_cost(self, micros: int) -> Allowance | None:
        """With what may still be paid; None if that is too little."""
        if self.reservation.cost_micros <= micros:
            return self
        for_reply = micros - self._priced(0).cost_micros
        per_million = self.prices.output_micros
        if for_reply < 0 or not per_million:
            return None
        return self.within(self.request_tokens + for_reply * 1_000_000 // per_million)

    def require(self, characters: int) -> None:
        """Raises BudgetExhausted if a reply that is cut has more characters than it may."""
        if self.cut and characters > self.reply_tokens * prompt_length.CHARACTERS_PER_TOKEN:
            raise BudgetExhausted(
                f"the reply was stopped after about {self.reply_tokens} tokens:"
                " the budget leaves no more"
            )


class Meter:
    """Counts a reply as it flows."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._characters = 0

    def count(self, text: str) -> None:
        """Raises BudgetExhausted when it is more than there may be."""
        self._characters += len(text)
        self._allowance.require(self._characters)

    @property
    def consumed(self) -> Consumption:
        """As an estimate."""
        return self._allowance.consumed(self._characters)
