"""Field rules of the contracts (protovalidate), applied to requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError, Message
from protovalidate import Validator

from meshkit.errors import FieldViolation, MeshError
from meshkit.times import impossible_times

_validator = Validator()
_MAX_VIOLATIONS = 100


class Undecodable:
    """In the place of a request whose bytes are no message of its type."""


def decoding(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Decodes what it can: what fails there would reach the caller as UNKNOWN, without a reason."""
    if decode is None:
        return None

    def decode_or_not(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return Undecodable()

    return decode_or_not


def validate(message: Message | Undecodable) -> None:
    """Raises MeshError INVALID_ARGUMENT with every field of `message` that breaks its rules."""
    if isinstance(message, Undecodable):
        raise MeshError.malformed("the request is no message of its type, or holds invalid UTF-8")
    impossible = impossible_times(message)  # first: the rules cannot be applied to these
    if impossible:
        raise MeshError.invalid_fields(impossible[:_MAX_VIOLATIONS])
    found = _validator.collect_violations(message)
    if found:
        raise MeshError.invalid_fields([_violation(v.proto) for v in found[:_MAX_VIOLATIONS]])


def prepare(message_class: type[Message]) -> None:
    """Compiles the rules of a message ahead of its first use; raises if they do not compile."""
    _validator.collect_violations(message_class())


def _violation(found: Any) -> FieldViolation:
    return FieldViolation(field_path(found.field), found.message or found.rule_id)


def field_path(path: Any) -> str:
    """A buf.validate.FieldPath as people write it: `team.agents[2].labels["env"]`."""
    if path is None:
        return ""
    text = ""
    for element in path.elements:
        text += ("." if text else "") + element.field_name
        subscript = element.subscript
        if subscript is None:
            continue
        value = subscript.value
        text += f'["{value}"]' if isinstance(value, str) else f"[{value}]"
    return text
