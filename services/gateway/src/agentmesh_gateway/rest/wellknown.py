"""Messages of google.protobuf that have a JSON form of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from google.protobuf import duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2

from agentmesh_gateway.rest.problems import Path, Problems

Decoder = Callable[[Any, Any, Path, Problems], None]
"""Reads a JSON value into a message: (value, message, path, problems)."""

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  all of it is UTC, and its form is written without
# Behind a dot the key of a map may stand. "*" is everything.
_MASK_PATH = re.compile(r"\*|[a-z][a-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")
# Python's parser takes more than RFC 3339 allows, for example "2024-01-01".
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_SECONDS = re.compile(r"-?\d{1,12}(\.\d{1,9})?s")


def _encode_timestamp(message: timestamp_pb2.Timestamp) -> str:
    nanos = message.nanos
    whole = (_EPOCH + timedelta(seconds=message.seconds)).isoformat()
    if not nanos:
        return f"{whole}Z"
    if nanos % 1_000_000 == 0:
        return f"{whole}.{nanos // 1_000_000:03}Z"
    return f"{whole}.{nanos // 1_000:06}Z" if nanos % 1_000 == 0 else f"{whole}.{nanos:09}Z"


def _decode_timestamp(
    value: object, message: timestamp_pb2.Timestamp, path: Path, problems: Problems
) -> None:
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            message.FromJsonString(value.upper())
        except ValueError:
            pass
        else:
            return
    problems.add(path, 'must be a time such as "2026-01-15T10:30:00Z"')


def _encode_duration(message: duration_pb2.Duration) -> str:
    return message.ToJsonString()


def _decode_duration(
    value: object, message: duration_pb2.Duration, path: Path, problems: Problems
) -> None:
    if isinstance(value, str) and _SECONDS.fullmatch(value):
        try:
            message.FromJsonString(value)
        except ValueError:
            pass
        else:
            return
    problems.add(path, 'must be seconds followed by "s", such as "90s" or "0.5s"')


def _encode_field_mask(message: field_mask_pb2.FieldMask) -> str:
    return ",".join(message.paths)


def _decode_field_mask(
    value: object, message: field_mask_pb2.FieldMask, path: Path, problems: Problems
) -> None:
    if isinstance(value, str):
        paths = [part for part in value.split(",") if part]
        if all(_MASK_PATH.fullmatch(part) for part in paths):
            message.paths.extend(paths)
            return
    problems.add(path, 'must be field names joined by commas, such as "labels,budget.max_turns"')


def _encode_value(message: struct_pb2.Value) -> Any:
    kind = message.WhichOneof("kind")
    if kind == "struct_value":
        return _encode_struct(message.struct_value)
    if kind == "list_value":
        return _encode_list(message.list_value)
    if kind == "number_value":
        number = message.number_value
        whole = number.is_integer() and abs(number) < 2**53
        negative_zero = number == 0 and math.copysign(1, number) < 0
        return int(number) if whole and not negative_zero else number
    if kind is None or kind == "null_value":
        return None
    return getattr(message, kind)


def _encode_struct(message: struct_pb2.Struct) -> dict[str, Any]:
    return {key: _encode_value(message.fields[key]) for key in sorted(message.fields)}


def _encode_list(message: struct_pb2.ListValue) -> list[Any]:
    return [_encode_value(value) for value in message.values]


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _decode_value(value: object, message: struct_pb2.Value, path: Path, problems: Problems) -> None:
    if value is None:
        message.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int | float):
        if not -1.7976931348623157e308 <= value <= 1.7976931348623157e308:
            problems.add(path, "is too large for a number")
            return
        message.number_value = float(value)
    elif isinstance(value, str):
        if not _is_text(value):
            problems.add(path, "must be valid Unicode; it holds half a surrogate pair")
            return
        message.string_value = value
    elif isinstance(value, dict):
        message.struct_value.SetInParent()
        _decode_struct(value, message.struct_value, path, problems)
    else:
        message.list_value.SetInParent()
        _decode_list(value, message.list_value, path, problems)


def _decode_struct(
    value: object, message: struct_pb2.Struct, path: Path, problems: Problems
) -> None:
    if not isinstance(value, dict):
        problems.add(path, "must be an object")
        return
    if problems.too_deep(path):
        return
    for key, item in value.items():
        if not _is_text(key):
            problems.add(path, "has a key that is no valid Unicode")
            continue
        _decode_value(item, message.fields[key], path.field(key), problems)


def _decode_list(
    value: object, message: struct_pb2.ListValue, path: Path, problems: Problems
) -> None:
    if not isinstance(value, list):
        problems.add(path, "must be a list")
        return
    if problems.too_deep(path):
        return
    for position, item in enumerate(value):
        _decode_value(item, message.values.add(), path.index(position), problems)


ENCODERS: dict[str, Callable[[Any], Any]] = {
    "google.protobuf.Timestamp": _encode_timestamp,
    "google.protobuf.Duration": _encode_duration,
    "google.protobuf.FieldMask": _encode_field_mask,
    "google.protobuf.Struct": _encode_struct,
    "google.protobuf.ListValue": _encode_list,
    "google.protobuf.Value": _encode_value,
}

DECODERS: dict[str, Decoder] = {
    "google.protobuf.Timestamp": _decode_timestamp,
    "google.protobuf.Duration": _decode_duration,
    "google.protobuf.FieldMask": _decode_field_mask,
    "google.protobuf.Struct": _decode_struct,
    "google.protobuf.ListValue": _decode_list,
    "google.protobuf.Value": _decode_value,
}
