"""Schemas of tools, and what is wrong with arguments. Used by the service and by its workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

_MAX_VIOLATIONS: Final = 20


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of a model, without the names and words of its class."""
    schema = model.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    return schema


def path_of(parts: Iterable[str | int]) -> str:
    """A place within JSON such as "tasks[0].title"; "" for the whole."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path


def violations(error: ValidationError) -> list[dict[str, str]]:
    """What is wrong with arguments: "path" and "message" of each."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        {"path": path_of(each["loc"]), "message": each["msg"].removeprefix("Value error, ")}
        for each in problems[:_MAX_VIOLATIONS]
    ]


def explain(tool: str, found: Sequence[Mapping[str, str]]) -> str:
    """The violations, for the model."""
    lines = [f"{tool} was called with wrong arguments:"]
    lines += [f"- {each['path'] or 'arguments'}: {each['message']}" for each in found]
    return "\n".join(lines)
