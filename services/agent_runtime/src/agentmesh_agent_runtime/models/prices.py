"""What replies cost."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece, ReplySource
from agentmesh_agent_runtime.turns.ports import Consumption

_MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """Millionths of a currency per million tokens."""

    input_micros: int = 0
    output_micros: int = 0

    def cost(self, usage: Consumption) -> int:
        """Millionths for that usage, rounded up: a budget is never overspent by rounding."""
        exact = usage.input_tokens * self.input_micros + usage.output_tokens * self.output_micros
        return -(-exact // _MILLION)


NO_PRICES = Prices()


@dataclass(frozen=True)
class ReplyBound:
    """What one reply has at most, where its model is told: tokens, and their price. Without
    `tokens` nothing bounds it."""

    tokens: int | None = None
    prices: Prices = NO_PRICES


UNBOUND = ReplyBound()


class PricedReplySource:
    """A model whose replies say what they cost."""

    def __init__(self, source: ReplySource, prices: Prices) -> None:
        self._source = source
        self._prices = prices
        self.provider = source.provider
        self.model = source.model
        self.info = source.info

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource."""
        async for piece in self._source.stream(request):
            if isinstance(piece, ModelReply):
                usage = piece.usage
                yield replace(piece, usage=replace(usage, cost_micros=self._prices.cost(usage)))
            else:
                yield piece
