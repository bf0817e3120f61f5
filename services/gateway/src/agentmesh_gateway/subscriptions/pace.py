"""Times of subscriptions."""

from __future__ import annotations

from dataclasses import dataclass

_TICKS_A_HEARTBEAT = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """In seconds: the longest silence, and how long a store may be away."""

    heartbeat: float
    patience: float

    @property
    def tick(self) -> float:
        """How often it is looked whether a heartbeat is due."""
        return min(1.0, self.heartbeat / _TICKS_A_HEARTBEAT)
