"""What a tool is: a name, a schema of its arguments, and what it does in a workspace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from agentmesh_tool_runner.sandbox.backend import (
    ExecutionSpec,
    Limits,
    Outcome,
    Output,
    Stream,
    Workspace,
)

_MAX_OUTPUT_CHARACTERS = 24_000


class Arguments(BaseModel):
    """Arguments of a tool. Fields that it does not name are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReplyOutcome(Enum):
    """How a call ended, as the model is told."""

    OK = "ok"
    ERROR = "error"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class ToolReply:
    """What the model is told; `detail` holds JSON values for programs."""

    outcome: ReplyOutcome
    output: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    truncated: bool = False
    cpu_seconds: float = 0.0

    @classmethod
    def ok(cls, output: str, **detail: Any) -> ToolReply:
        """The tool did what it is for."""
        return cls(ReplyOutcome.OK, output, detail)

    @classmethod
    def error(cls, output: str, **detail: Any) -> ToolReply:
        """The tool could not, or was called wrongly."""
        return cls(ReplyOutcome.ERROR, output, detail)


@dataclass
class Finished:
    """A program that ran for a tool."""

    outcome: Outcome
    stdout: str
    stderr: str


@dataclass(frozen=True)
class ToolContext:
    """Where a call acts: its workspace, the interpreter inside, its limits, its live audience.

    `started` is told of every execution, so that whoever ends the call can end what runs for it.
    """

    workspace: Workspace
    python: str
    limits: Limits
    emit: Callable[[Output], None]
    run: Callable[[ExecutionSpec], Any]

    async def execute(self, spec: ExecutionSpec, *, live: bool = False) -> Finished:
        """Runs a program to its end; `live` shows its output while it runs."""
        execution = await self.run(spec)
        written = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
        async for piece in execution.output():
            written[piece.stream] += piece.data
            if live:
                self.emit(piece)
        texts = {stream: bytes(data).decode(errors="replace") for stream, data in written.items()}
        return Finished(await execution.outcome(), texts[Stream.STDOUT], texts[Stream.STDERR])


ArgumentsType = TypeVar("ArgumentsType", bound=Arguments)


class Tool(ABC, Generic[ArgumentsType]):
    """A tool that agents can call."""

    name: ClassVar[str]
    description: ClassVar[str]
    safe_to_repeat: ClassVar[bool]
    """True if a call whose outcome is unknown may be made again without harm."""
    arguments: type[ArgumentsType]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments."""
        schema = self.arguments.model_json_schema()
        schema.pop("title", None)
        schema.pop("description", None)
        return schema

    async def call(self, context: ToolContext, arguments_json: str) -> ToolReply:
        """Checks the arguments and acts. Wrong arguments are a reply that names the field."""
        try:
            arguments = self.arguments.model_validate_json(arguments_json or "{}")
        except ValidationError as error:
            return ToolReply.error(_explain(self.name, error))
        reply = await self.act(context, arguments)
        return _shortened(reply)

    @abstractmethod
    async def act(self, context: ToolContext, arguments: ArgumentsType) -> ToolReply:
        """What the tool does."""


def _explain(tool: str, error: ValidationError) -> str:
    lines = [f"{tool} was called with wrong arguments:"]
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"]) or "arguments"
        lines.append(f"- {where}: {problem['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def _shortened(reply: ToolReply) -> ToolReply:
    """Long output keeps its beginning and its end, where errors stand."""
    if len(reply.output) <= _MAX_OUTPUT_CHARACTERS:
        return reply
    half = _MAX_OUTPUT_CHARACTERS // 2
    left_out = len(reply.output) - 2 * half
    output = f"{reply.output[:half]}\n… {left_out} characters left out …\n{reply.output[-half:]}"
    return ToolReply(reply.outcome, output, reply.detail, True, reply.cpu_seconds)
