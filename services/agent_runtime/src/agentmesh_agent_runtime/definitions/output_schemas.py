"""JSON Schemas of agents' answers: whether they are usable, and whether an answer fits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.exceptions import best_match

from agentmesh_agent_runtime.definitions.bounded_schemas import (
    DIALECT,
    MOST_STEPS,
    TooCostly,
    errors,
)
from agentmesh_agent_runtime.definitions.findings import Finding

Schema = Mapping[str, Any]

MOST_BYTES: Final = 64 * 1024
"""Of a schema, written as JSON."""

DEEPEST: Final = 16
"""Objects and lists within each other, in an answer. A message of the log holds few more."""

_LONGEST_EXPLANATION: Final = 300
_STEPS_OF_NOTHING: Final = 100_000
"""To check an object without anything in it."""
_NOT_CHECKED: Final = (
    "pattern",
    "patternProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_NAMES_ARE_FREE: Final = ("properties", "$defs", "definitions", "dependentSchemas")
_REFERENCES: Final = ("$ref", "$dynamicRef")
_DATA: Final = ("const", "enum", "default", "examples")
_TOO_DEEP: Final = "is nested too deep"
_FENCE: Final = "```"


def problems(schema: Schema, path: str) -> Iterator[Finding]:
    """What keeps a schema from being used, at its path."""
    try:
        written = json.dumps(schema, allow_nan=False)
    except RecursionError:
        yield Finding(path, _TOO_DEEP)
    except (TypeError, ValueError) as error:
        yield Finding(path, f"has a value that JSON has not: {_short(str(error))}")
    else:
        for found in _problems_of(written):
            yield Finding(f"{path}{found.path}", found.description)


@lru_cache(maxsize=256)
def _problems_of(written: str) -> tuple[Finding, ...]:
    """Of a schema as JSON; every turn of its agents asks for them."""
    if len(written) > MOST_BYTES:
        return (Finding("", f"is longer than {MOST_BYTES} bytes"),)
    try:
        return tuple(_problems(json.loads(written), ""))
    except RecursionError:
        return (Finding("", _TOO_DEEP),)


def _problems(schema: Schema, path: str) -> Iterator[Finding]:
    if schema.get("type") != "object":
        yield Finding(f"{path}.type", "an answer is an object; write type: object")
        return
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        steps = (f"[{s}]" if isinstance(s, int) else f".{s}" for s in error.absolute_path)
        yield Finding(f"{path}{''.join(steps)}", f"is no JSON Schema: {_short(error.message)}")
        return
    found = list(_unusable(schema, path, schema))
    yield from found
    if not found and (flaw := fits({}, schema, steps=_STEPS_OF_NOTHING)) and flaw.unchecked:
        yield Finding(path, flaw.why)


def _unusable(value: Any, path: str, root: Schema, *, names: bool = False) -> Iterator[Finding]:
    """`names`: the keys of `value` are chosen freely, and no keywords."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unusable(item, f"{path}[{index}]", root)
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        where = f"{path}.{key}"
        if not names and key in _NOT_CHECKED:
            yield Finding(where, "is not served, for its cost has no bound")
        elif not names and key == DIALECT and value is not root:
            yield Finding(where, "is for the top of the schema; remove it")
        elif not names and key in _REFERENCES:
            if not _leads_somewhere(str(inner), root):
                yield Finding(where, "leads nowhere; define it in $defs and write '#/$defs/…'")
        elif names or key not in _DATA:
            free = not names and key in _NAMES_ARE_FREE
            yield from _unusable(inner, where, root, names=free)


def _leads_somewhere(reference: str, root: Schema) -> bool:
    """True for a place in this document. Others would have to be fetched."""
    if reference == "#":
        return True
    if not reference.startswith("#/"):
        return False
    value: Any = root
    for step in reference.removeprefix("#/").split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


@dataclass(frozen=True)
class Flaw:
    """Why an answer is refused: where in it, as a JSON path, and why.

    `unchecked`: it cannot even be said whether it fits, which is the schema's fault.
    """

    where: str
    why: str
    unchecked: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


def parsed(text: str) -> tuple[dict[str, Any], Flaw | None]:
    """The object that a text is, which may stand in a fence of Markdown; or what it lacks."""
    try:
        value = json.loads(_unfenced(text), parse_constant=_refuse, parse_int=_number)
    except (ValueError, OverflowError) as error:
        return {}, Flaw("$", f"is no JSON ({_short(str(error))})")
    except RecursionError:
        return {}, _too_deep()
    if not isinstance(value, dict):
        return {}, Flaw("$", "is no object")
    if not _is_shallow(value, DEEPEST):
        return {}, _too_deep()
    return value, None


def fits(value: Any, schema: Schema, *, steps: int = MOST_STEPS) -> Flaw | None:
    """What keeps a value from being valid under the schema, or None. `steps` bound the check."""
    try:
        error = best_match(errors(value, schema, steps=steps))
    except TooCostly:
        return Flaw("$", "the schema takes too many steps to be checked", unchecked=True)
    except RecursionError:
        return Flaw("$", "the schema refers to itself without an end", unchecked=True)
    except Exception as unresolved:
        return Flaw("$", f"the schema cannot be used: {_short(str(unresolved))}", unchecked=True)
    return None if error is None else Flaw(error.json_path, _short(error.message))


def _unfenced(text: str) -> str:
    plain = text.strip()
    if not (plain.startswith(_FENCE) and plain.endswith(_FENCE) and "\n" in plain):
        return plain
    return plain[plain.index("\n") : -len(_FENCE)]


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _number(digits: str) -> int:
    """Raises OverflowError for one that the log cannot hold."""
    number = int(digits)
    float(number)
    return number


def _is_shallow(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return value not in (float("inf"), float("-inf"))
    items = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in items)


def _too_deep() -> Flaw:
    return Flaw("$", f"is nested deeper than {DEEPEST} levels, or has numbers without bound")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_EXPLANATION else f"{line[:_LONGEST_EXPLANATION]}…"
