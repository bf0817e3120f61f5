"""Whether a tool's result is what its schema promises."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.exceptions import ValidationError
from referencing import Registry

from .reply import Failure, ReplyOutcome, ToolReply
from .schemas import path_of
from .spec import ToolSpec

logger = logging.getLogger(__name__)

_CHECKED_IN_A_THREAD: Final = 16 * 1024
_MAX_TOLD: Final = 300


class OutputCheck:
    """Holds results against schemas; each schema is prepared once."""

    def __init__(self) -> None:
        self._validators: dict[str, tuple[Mapping[str, Any], Draft202012Validator | None]] = {}

    async def checked(self, spec: ToolSpec, reply: ToolReply) -> ToolReply:
        """The reply, or a failure in its place if it is good and not what was promised."""
        left_out = reply.truncated and not reply.detail
        if spec.output_schema is None or reply.outcome is not ReplyOutcome.OK or left_out:
            return reply
        validator = self._validator(spec.name, spec.output_schema)
        if validator is None:
            return _broken(spec, "", "its output schema is no JSON Schema")
        detail = dict(reply.detail)
        try:
            size = len(json.dumps(detail, allow_nan=False))
        except (TypeError, ValueError) as error:
            return _broken(spec, "", f"it is no JSON: {error}")
        if size > _CHECKED_IN_A_THREAD:
            problem = await asyncio.to_thread(_first, validator, detail)
        else:
            problem = _first(validator, detail)
        if problem is None:
            return reply
        return _broken(spec, path_of(problem.absolute_path), problem.message[:_MAX_TOLD])

    def _validator(self, name: str, schema: Mapping[str, Any]) -> Draft202012Validator | None:
        known = self._validators.get(name)
        if known is None or known[0] is not schema:
            known = self._validators[name] = (schema, _prepared(schema))
        return known[1]


def _prepared(schema: Mapping[str, Any]) -> Draft202012Validator | None:
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError:
        return None
    # An empty registry: no schema makes this process fetch another one.
    return Draft202012Validator(dict(schema), registry=Registry())


def _first(validator: Draft202012Validator, detail: Mapping[str, Any]) -> ValidationError | None:
    found: ValidationError | None = next(validator.iter_errors(detail), None)
    return found


def _broken(spec: ToolSpec, path: str, why: str) -> ToolReply:
    where = f" at {path}" if path else ""
    logger.warning("the result of %s is not what its schema promises%s: %s", spec.name, where, why)
    text = f"{spec.name} ran, but its result{where} is not what it promises: {why}"
    violation = {"path": path, "message": why}
    return ToolReply.failed(Failure.OUTPUT, text, violations=[violation])
