"""Runs that a turn starts, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentmesh_agent_runtime.definitions.specs import TeamKind, TeamSpec

ROUNDS: Final = 20
"""Of a team within a team that sets none."""


@dataclass(frozen=True)
class RunNeeded:
    """A run to start: its team, what it is told, and the path under which its members appear."""

    path: str
    team: TeamSpec
    task: str


def rounds_within(team: TeamSpec) -> int:
    """How many rounds a team within another may take."""
    return 1 if team.kind is TeamKind.SINGLE else team.max_rounds or ROUNDS
