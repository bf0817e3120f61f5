"""Schemas of tools, and what is wrong with arguments. Used by the service and by its workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

_MAX_VIOLATIONS: Final = 20
_REFERENCE: Final = "#/$defs/"


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of a model, without the names and words of its class, and without references.

    Not every model server follows references. What contains itself is any object where it does.
    """
    schema = model.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    definitions = schema.pop("$defs", {})
    resolved: dict[str, Any] = _resolved(schema, definitions, ())
    return resolved


def _resolved(part: Any, definitions: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    if isinstance(part, list):
        return [_resolved(each, definitions, above) for each in part]
    if not isinstance(part, dict):
        return part
    name = str(part.get("$ref", "")).removeprefix(_REFERENCE)
    if name not in definitions:
        return {key: _resolved(each, definitions, above) for key, each in part.items()}
    beside = {key: each for key, each in part.items() if key != "$ref"}
    target = {"type": "object"} if name in above else definitions[name]
    return {**_resolved(target, definitions, (*above, name)), **beside}


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
