"""JSON objects between their contracts and the domain."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct


def plain(struct: Struct) -> dict[str, Any]:
    """With whole numbers as integers: a Struct has floats alone, and model servers mind it."""
    found: dict[str, Any] = {key: _plain(value) for key, value in MessageToDict(struct).items()}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
