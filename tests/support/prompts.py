"""Reads what an agent sent to its model, and makes replies."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from tests.support.model_server import Reply, ToolCall


class Prompt:
    """One request for a completion, as an agent sent it."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.messages: list[dict[str, Any]] = list(body["messages"])
        self.tools = [str(tool["function"]["name"]) for tool in body.get("tools") or ()]

    @property
    def tool_results(self) -> list[str]:
        """What tools answered since anybody else last spoke, oldest first."""
        newest = itertools.takewhile(
            lambda m: m["role"] in ("tool", "assistant"), reversed(self.messages)
        )
        return [str(m["content"]) for m in newest if m["role"] == "tool"][::-1]


def call_tool(name: str, **arguments: Any) -> Reply:
    """A reply that calls one tool."""
    return Reply(tool_calls=(ToolCall(name, json.dumps(arguments)),))
