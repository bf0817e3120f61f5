"""What a run may consume."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from agentmesh.common.v1 import usage_pb2


@dataclass(frozen=True)
class Budget:
    """Limits of a run; what is None is not limited.

    Tokens are those that go in and come out together, costs are millionths of a currency, time
    counts from the start of the run.
    """

    max_turns: int | None = None
    max_tokens: int | None = None
    max_cost_micros: int | None = None
    max_wall_time: timedelta | None = None

    def to_proto(self) -> usage_pb2.Budget:
        """As it goes over the wire."""
        raw = usage_pb2.Budget(
            max_turns=self.max_turns,
            max_tokens=self.max_tokens,
            max_cost_micros=self.max_cost_micros,
        )
        if self.max_wall_time is not None:
            raw.max_wall_time.FromTimedelta(self.max_wall_time)
        return raw
