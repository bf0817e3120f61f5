"""What is wrong with a definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentmesh_agent_runtime.definitions.specs import LlmSettings


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where in the document, and what to do about it."""

    path: str
    description: str


ModelCheck = Callable[[LlmSettings], Finding | None]
"""Says what is wrong with model settings, at its path within them, or None."""
