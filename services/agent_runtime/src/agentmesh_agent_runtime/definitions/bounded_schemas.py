"""JSON Schemas checked at a bounded cost: a few lines of one can ask for any amount of work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

KeywordCheck = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]

MOST_STEPS: Final = 5_000_000
"""Of one check, which takes some seconds at most."""
DIALECT: Final = "$schema"
_KEYWORD_STEPS: Final = 50
"""What a keyword takes as against an item that it goes through."""


class TooCostly(Exception):  # noqa: N818  read as a sentence where it is raised
    """The check was given up."""


@dataclass
class _Budget:
    left: int

    def spend(self, *values: Any) -> None:
        """For a keyword, and for each item that it may go through. Raises TooCostly."""
        self.left -= _KEYWORD_STEPS + sum(len(v) for v in values if isinstance(v, list | dict))
        if self.left < 0:
            raise TooCostly


_BUDGET: ContextVar[_Budget] = ContextVar("_BUDGET")


def errors(value: Any, schema: Mapping[str, Any], *, steps: int = MOST_STEPS) -> list[Any]:
    """What is wrong with a value, as jsonschema tells it. Raises TooCostly, RecursionError, and the
    library's own errors of references."""
    # What names its dialect is checked by that one's validator, which counts nothing.
    counted = {key: inner for key, inner in schema.items() if key != DIALECT}
    token = _BUDGET.set(_Budget(steps))
    try:
        return list(_Bounded(counted).iter_errors(value))
    finally:
        _BUDGET.reset(token)


def _counted(check: KeywordCheck) -> KeywordCheck:
    def counting(
        validator: Any, wanted: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        _BUDGET.get().spend(wanted, instance)
        yield from check(validator, wanted, instance, schema) or ()

    return counting


def _unique_items(
    validator: Any, wanted: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    """In one pass; the library compares each with each where they cannot be sorted."""
    if wanted and isinstance(instance, list):
        written = {json.dumps(_alike(item), sort_keys=True) for item in instance}
        if len(written) < len(instance):
            yield ValidationError("has items that are equal")


def _alike(value: Any) -> Any:
    """Equal numbers in one form."""
    if isinstance(value, list):
        return [_alike(item) for item in value]
    if isinstance(value, dict):
        return {key: _alike(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


_CHECKS: dict[str, KeywordCheck] = {
    **Draft202012Validator.VALIDATORS,
    "uniqueItems": _unique_items,
}
_Bounded: Any = extend(
    Draft202012Validator, {keyword: _counted(check) for keyword, check in _CHECKS.items()}
)
