"""What runs use up, and what they may."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from .copying import replace

if TYPE_CHECKING:
    from .model import Micros


@dataclass(frozen=True, slots=True)
class Usage:
    """Consumption, additive. Money is in millionths, CPU time in milliseconds."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    sandbox_cpu_ms: int = 0
    cost_micros: int = 0
    estimated: bool = False

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def plus(self, other: Usage) -> Usage:
        """The sum; estimated if either part is."""
        if other is NO_USAGE:
            return self
        sums = {name: getattr(self, name) + getattr(other, name) for name in ADDITIVE}
        return replace(self, **sums, estimated=self.estimated or other.estimated)

    def minus(self, other: Usage) -> Usage:
        """The difference, never below zero; for reservations."""
        if other is NO_USAGE:
            return self
        rest = {name: max(0, getattr(self, name) - getattr(other, name)) for name in ADDITIVE}
        return Usage(**rest)

    def at_most(self, other: Usage) -> Usage:
        """The lesser of each; for reservations."""
        return Usage(**{n: min(getattr(self, n), getattr(other, n)) for n in ADDITIVE})


ADDITIVE: tuple[str, ...] = tuple(f.name for f in fields(Usage) if f.name != "estimated")
NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds; None bounds nothing. `max_wall_time` counts from the start of the run."""

    max_turns: int | None = None
    max_wall_time: Micros | None = None
    max_tokens: int | None = None
    max_cost_micros: int | None = None
