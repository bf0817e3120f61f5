"""How models are asked for answers that fit a JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autogen_core.models import SystemMessage

from agentmesh_agent_runtime.models.replies import ModelRequest

_NAME = "answer"


def in_words(request: ModelRequest) -> ModelRequest:
    """The request with the schema as a further system message behind the first ones."""
    if request.output_schema is None:
        return request
    schema = json.dumps(request.output_schema, ensure_ascii=False)
    words = SystemMessage(
        content="Answer with a JSON object alone, without any other text, valid under this JSON "
        f"Schema: {schema}"
    )
    messages = list(request.messages)
    head = next(
        (i for i, m in enumerate(messages) if not isinstance(m, SystemMessage)), len(messages)
    )
    return replace(request, messages=[*messages[:head], words, *messages[head:]])


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """As OpenAI's chat completions take it."""
    return {
        "type": "json_schema",
        "json_schema": {"name": _NAME, "schema": dict(schema), "strict": is_strict(schema)},
    }


def is_strict(schema: Any) -> bool:
    """True if all of its objects have the properties that it names, and no others.

    Servers that can hold a model to a schema do so for these alone, and refuse others as strict.
    """
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, Mapping):
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required", ())) != set(properties or ()):
            return False
    return all(
        all(map(is_strict, inner.values()))
        if key in ("properties", "$defs") and isinstance(inner, Mapping)
        else is_strict(inner)
        for key, inner in schema.items()
        if key not in ("enum", "const", "default", "examples", "required")
    )
