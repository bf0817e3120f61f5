"""Tools as AutoGen passes them on: objects, or their schemas."""

from __future__ import annotations

from typing import Any, cast

from autogen_core.tools import Tool, ToolSchema


def schema_of(tool: Tool | ToolSchema) -> dict[str, Any]:
    """`name`, `description` and `parameters`, a JSON Schema."""
    return cast("dict[str, Any]", tool if isinstance(tool, dict) else tool.schema)
