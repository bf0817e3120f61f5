"""Parameters of workflows: their schema, their values, and the task that they are filled into.

A schema comes from whoever registered the workflow, its values from whoever executes it. So it is
a part of JSON Schema whose check takes no longer than the two are long: no patterns, no references
and nothing that tries alternatives.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError

from agentmesh_gateway.definitions.team_selection import Fault, listing

JsonObject = Mapping[str, Any]

_KEYWORDS: Final = frozenset(
    {
        "$schema",
        "additionalProperties",
        "const",
        "default",
        "description",
        "enum",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "properties",
        "required",
        "title",
        "type",
    }
)
_DEEPEST_SCHEMA: Final = 8
_MOST_VALUES: Final = 1000
_LONGEST_ENUM: Final = 100
MOST_FAULTS: Final = 20
"""So many are told at once: whoever mends them hears of further ones."""
_SHOWN: Final = 200
_SHOWN_OF_A_NAME: Final = 60
_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def schema_faults(schema: JsonObject, path: str) -> Iterator[Fault]:
    """The first things that keep a schema of parameters from being used. An empty one takes no
    parameters."""
    return islice(_schema_faults(schema, path), MOST_FAULTS)


def _schema_faults(schema: JsonObject, path: str) -> Iterator[Fault]:
    if not schema:
        return
    if _count(schema) > _MOST_VALUES:
        yield Fault(path, f"has more than {_MOST_VALUES} values")
        return
    faults = list(islice(_unknown_keywords(schema, path, _DEEPEST_SCHEMA), MOST_FAULTS))
    if schema.get("type") != "object":
        faults.append(Fault(f"{path}.type", 'must be "object": parameters have names'))
    yield from faults
    if faults:
        return
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield Fault(_place(path, error), _shortened(error.message))
        return
    for name, inner in schema.get("properties", {}).items():
        if not _PLACEHOLDER.fullmatch(f"{{{{{name}}}}}"):
            where = f"{path}.properties.{short(name)}"
            yield Fault(where, "is no name of letters, digits and _")
        elif isinstance(inner, Mapping) and "default" in inner:
            where = f"{path}.properties.{short(name)}.default"
            for wrong in Draft202012Validator(inner).iter_errors(inner["default"]):
                yield Fault(where, _shortened(wrong.message))


def _unknown_keywords(schema: Any, path: str, levels: int) -> Iterator[Fault]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield Fault(path, "must be an object")
        return
    if not levels:
        yield Fault(path, f"is nested deeper than {_DEEPEST_SCHEMA} levels")
        return
    for keyword, value in schema.items():
        where = f"{path}.{short(keyword)}"
        if keyword not in _KEYWORDS:
            yield Fault(where, f"is not taken here; known are {', '.join(sorted(_KEYWORDS))}")
        elif keyword in ("items", "additionalProperties"):
            yield from _unknown_keywords(value, where, levels - 1)
        elif keyword == "enum" and isinstance(value, list) and len(value) > _LONGEST_ENUM:
            yield Fault(where, f"has more than {_LONGEST_ENUM} values")
        elif keyword == "properties" and isinstance(value, Mapping):
            for name, inner in value.items():
                yield from _unknown_keywords(inner, f"{where}.{short(name)}", levels - 1)


def value_faults(schema: JsonObject, values: JsonObject) -> list[Fault]:
    """The first things that are wrong with values, by the path of the parameter."""
    return sorted(islice(_value_faults(schema, values), MOST_FAULTS), key=lambda fault: fault.field)


def _value_faults(schema: JsonObject, values: JsonObject) -> Iterator[Fault]:
    if not schema:
        for name in values:
            yield Fault(f"parameters.{short(name)}", "this workflow takes no parameters")
        return
    if _count(values) > _MOST_VALUES:
        yield Fault("parameters", f"has more than {_MOST_VALUES} values")
        return
    for error in Draft202012Validator(schema).iter_errors(values):
        yield Fault(_place("parameters", error), _shortened(error.message))


def with_defaults(schema: JsonObject, values: JsonObject) -> dict[str, Any]:
    """The values, and the schema's defaults where there are none."""
    properties = schema.get("properties", {})
    defaults = {
        name: inner["default"]
        for name, inner in properties.items()
        if isinstance(inner, Mapping) and "default" in inner
    }
    return {**defaults, **values}


def template_faults(template: str, schema: JsonObject, path: str) -> Iterator[Fault]:
    """The first placeholders of a template that no parameter fills."""
    known = schema.get("properties", {})
    named = dict.fromkeys(found[1] for found in _PLACEHOLDER.finditer(template))
    shown = _shortened(listing([short(name) for name in sorted(known)]))
    for name in islice((name for name in named if name not in known), MOST_FAULTS):
        yield Fault(path, f'"{short(name)}" is no parameter; the parameters are: {shown}')


def filled_in(template: str, values: JsonObject) -> str:
    """The template with its values. What values contain is not looked at again."""
    texts = {name: _text(values.get(name, "")) for name in set(_PLACEHOLDER.findall(template))}
    return _PLACEHOLDER.sub(lambda found: texts[found[1]], template)


def filled_bytes(template: str, values: JsonObject) -> int:
    """How long `filled_in` would make it, in UTF-8, without making it."""
    named = Counter(_PLACEHOLDER.findall(template))
    rest = len(_PLACEHOLDER.sub("", template).encode())
    return rest + sum(
        count * len(_text(values.get(name, "")).encode()) for name, count in named.items()
    )


def _count(value: Any) -> int:
    if isinstance(value, Mapping):
        return 1 + sum(map(_count, value.values()))
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


def _place(path: str, error: ValidationError | SchemaError) -> str:
    steps = list(error.absolute_path)
    if error.validator == "required" and isinstance(error.instance, Mapping):
        missing = [name for name in error.validator_value if name not in error.instance]
        quoted = [name for name in missing if error.message.startswith(repr(name))]
        steps += quoted[:1]
    return path + "".join(
        f"[{step}]" if isinstance(step, int) else f".{short(step)}" for step in steps
    )


def short(name: object) -> str:
    """A name as far as it is shown."""
    text = str(name)
    return text if len(text) <= _SHOWN_OF_A_NAME else f"{text[:_SHOWN_OF_A_NAME]}…"


def _shortened(message: str) -> str:
    return message if len(message) <= _SHOWN else f"{message[:_SHOWN]}…"
