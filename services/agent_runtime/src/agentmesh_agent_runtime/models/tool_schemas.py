"""Tools as AutoGen passes them on: objects, or their schemas."""

from __future__ import annotations

import json
from typing import Any, cast

from autogen_core.tools import Tool, ToolSchema


def schema_of(tool: Tool | ToolSchema) -> dict[str, Any]:
    """`name`, `description` and `parameters`, a JSON Schema."""
    return cast("dict[str, Any]", tool if isinstance(tool, dict) else tool.schema)


def arguments_of(written: str) -> dict[str, Any]:
    """A call's arguments for servers that take an object only.

    What is none, or has what no request can hold, is shown to the model within one.
    """
    try:
        found = json.loads(written or "{}")
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"malformed_arguments": written}
