"""What a tool answers, and what can go wrong with one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

MAX_OUTPUT_CHARACTERS: Final = 24_000
"""Of what a model is told."""
MAX_DETAIL_CHARACTERS: Final = 128 * 1024
# Protobuf reads a hundred nested messages, and a level of JSON takes three.
MAX_DETAIL_DEPTH: Final = 24


class ReplyOutcome(Enum):
    """How a call ended, as the model is told."""

    OK = "ok"
    ERROR = "error"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"


class Failure(Enum):
    """What went wrong with a tool, as opposed to what a tool reports."""

    UNKNOWN_TOOL = "unknown_tool"
    ARGUMENTS = "arguments"
    RAISED = "raised"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    OUTPUT = "output"
    UNAVAILABLE = "unavailable"

    @property
    def may_pass(self) -> bool:
        """True if an equal call may have a better end."""
        return self in (Failure.RAISED, Failure.TIMEOUT, Failure.CRASHED, Failure.UNAVAILABLE)


@dataclass(frozen=True)
class ToolReply:
    """What the model is told; `detail` holds JSON values for programs.

    `nothing_done` says of a failure that the call had no effect and may be made again, whatever the
    tool is.
    """

    outcome: ReplyOutcome
    output: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    truncated: bool = False
    cpu_seconds: float = 0.0
    failure: Failure | None = None
    attempts: int = 1
    cached: bool = False
    nothing_done: bool = False

    @classmethod
    def ok(cls, output: str, **detail: Any) -> ToolReply:
        """The tool did what it is for."""
        return cls(ReplyOutcome.OK, output, detail)

    @classmethod
    def error(cls, output: str, **detail: Any) -> ToolReply:
        """The tool could not, or was called wrongly."""
        return cls(ReplyOutcome.ERROR, output, detail)

    @classmethod
    def failed(cls, failure: Failure, output: str, **detail: Any) -> ToolReply:
        """Something went wrong with the tool itself."""
        return cls(ReplyOutcome.ERROR, output, detail, failure=failure)

    def without_effect(self) -> ToolReply:
        """The same, said of a call that did nothing and may be made again."""
        return replace(self, nothing_done=True)

    def shortened(self) -> ToolReply:
        """The reply within the bounds of a record.

        Long output keeps its beginning and its end, where errors stand; a detail that is too large
        or nested too deep is left out.
        """
        output, detail = self.output, self.detail
        if len(output) > MAX_OUTPUT_CHARACTERS:
            half = MAX_OUTPUT_CHARACTERS // 2
            left_out = len(output) - 2 * half
            output = f"{output[:half]}\n… {left_out} characters left out …\n{output[-half:]}"
        if _depth(detail) > MAX_DETAIL_DEPTH or len(json.dumps(detail)) > MAX_DETAIL_CHARACTERS:
            detail = {}
        if output is self.output and detail is self.detail:
            return self
        return replace(self, output=output, detail=detail, truncated=True)


def _depth(value: object) -> int:
    """How deep JSON is nested, as far as that matters."""
    deepest, level = 0, [value]
    while level and deepest <= MAX_DETAIL_DEPTH:
        deepest += 1
        below: list[object] = []
        for each in level:
            if isinstance(each, Mapping):
                below += each.values()
            elif isinstance(each, (list, tuple)):
                below += each
        level = below
    return deepest
