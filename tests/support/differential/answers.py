"""What a call answered, whichever edge it went over."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

_ID = re.compile(r"\b([a-z]{2,8})_[0-9a-z]*[0-9][0-9a-z]{7,}\b|\bmade_[0-9a-f]{8}\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# Made afresh for each mutation, and opaque.
_OPAQUE = frozenset(
    {"etag", "traceparent", "secret", "prefix", "trace_id", "span_id", "version_id", "digest"}
)


@dataclass
class Answer:
    """Messages or bytes, or an error, possibly after some messages."""

    messages: list[Message] = field(default_factory=list)
    data: bytes = b""
    error: Status | None = None

    def plain(self, *, same_object: bool, without: Collection[str] = ()) -> Any:
        """The answer as plain values. Unless both calls were about the `same_object`, ids, times
        and opaque values are replaced by what they are."""
        values = [_values(message) for message in self.messages]
        error = None if self.error is None else _error(self.error)
        found = {"messages": values, "data": self.data, "error": error}
        return _Normaliser(set(without), keep=same_object).value(found)


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two plain answers differ, and how."""
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            found
            for name in sorted({*left, *right})
            for found in differences(left.get(name), right.get(name), f"{path}.{name}")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            found
            for position, pair in enumerate(zip(left, right, strict=True))
            for found in differences(*pair, f"{path}[{position}]")
        ]
    return [] if left == right else [f"{path}: {left!r} and {right!r}"]


def _values(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _error(status: Status) -> dict[str, Any]:
    details = [_values(detail) for detail in status.details]
    return {"code": status.code, "message": status.message, "details": details}


class _Normaliser:
    def __init__(self, without: set[str], *, keep: bool) -> None:
        self._without = without
        self._keep = keep
        self._ids: dict[str, str] = {}

    def value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: bool(inner) if self._is_opaque(name, inner) else self.value(inner)
                for name, inner in sorted(value.items())
                if name not in self._without
            }
        if isinstance(value, list):
            return [self.value(inner) for inner in value]
        if isinstance(value, str) and not self._keep:
            return _TIME.sub("<time>", _ID.sub(self._numbered, value))
        return value

    def _is_opaque(self, name: str, value: Any) -> bool:
        return not self._keep and name in _OPAQUE and isinstance(value, str)

    def _numbered(self, match: re.Match[str]) -> str:
        kind = match.group(0).partition("_")[0]
        return self._ids.setdefault(match.group(0), f"<{kind} {len(self._ids)}>")
