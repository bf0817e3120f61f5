"""Tools that every agent may name and that no tool_runner has."""

from __future__ import annotations

from typing import Final

ASK_HUMAN: Final = "ask_human"
"""Asks a person and waits for the answer; carried out by agent_runtime itself."""

BUILTIN_TOOLS: Final = frozenset({ASK_HUMAN})
