"""Parts of queries with their arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Condition:
    """A part of a query with its arguments."""

    sql: str
    arguments: tuple[Any, ...] = ()

    def and_also(self, other: Condition) -> Condition:
        """Both of them."""
        return Condition(f"{self.sql} AND {other.sql}", self.arguments + other.arguments)


def in_turn(*conditions: Condition) -> Condition:
    """All of them; what there are none of holds."""
    whole = Condition("1 = 1")
    for condition in conditions:
        whole = whole.and_also(condition)
    return whole
