"""A tool of this service: a name, a schema of its arguments, and what it does in a workspace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from agentmesh_tool_runner.languages import Program
from agentmesh_tool_runner.sandbox.backend import Execution, Workspace
from agentmesh_tool_runner.sandbox.model import ExecutionSpec, Limits, Outcome, Output, Stream

from .reply import Failure, ReplyOutcome, ToolReply
from .schemas import explain, schema_of, violations
from .spec import ToolSpec

__all__ = [
    "Arguments",
    "Finished",
    "ReplyOutcome",
    "Result",
    "Tool",
    "ToolContext",
    "ToolReply",
]


class Arguments(BaseModel):
    """Arguments of a tool. Fields that it does not name are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Result(BaseModel):
    """What a good reply holds for programs, as its `detail`."""

    model_config = ConfigDict(extra="allow", frozen=True)


@dataclass
class Finished:
    """A program that ran for a tool."""

    outcome: Outcome
    stdout: str
    stderr: str
    fresh_interpreter: bool | None = None


@dataclass(frozen=True)
class ToolContext:
    """Where a call acts: its workspace, the interpreter inside, its limits, its live audience.

    `run` is told of every execution, so that whoever ends the call can end what runs for it.
    """

    opened: Workspace | None
    python: str
    limits: Limits
    emit: Callable[[Output], None]
    run: Callable[[ExecutionSpec | Program], Awaitable[Execution]]
    tenant: str = ""
    agent: str = ""
    tool_call_id: str = ""
    traceparent: str = ""

    @property
    def workspace(self) -> Workspace:
        """The files of the conversation, for a tool that uses them."""
        if self.opened is None:
            raise RuntimeError("the tool says that it uses no workspace")
        return self.opened

    async def execute(
        self,
        wanted: ExecutionSpec | Program,
        *,
        live: bool = False,
        shown: Collection[Stream] = (Stream.STDOUT, Stream.STDERR),
    ) -> Finished:
        """Runs a program to its end; `live` shows what it writes to `shown` while it runs.

        Raises LanguageNotInstalledError and InterpreterUnavailableError of a Program.
        """
        execution = await self.run(wanted)
        written = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
        async for piece in execution.output():
            written[piece.stream] += piece.data
            if live and piece.stream in shown:
                self.emit(piece)
        texts = {stream: bytes(data).decode(errors="replace") for stream, data in written.items()}
        return Finished(
            await execution.outcome(),
            texts[Stream.STDOUT],
            texts[Stream.STDERR],
            execution.fresh_interpreter,
        )


ArgumentsType = TypeVar("ArgumentsType", bound=Arguments)


class Tool(ABC, Generic[ArgumentsType]):
    """A tool that agents can call."""

    name: ClassVar[str]
    description: ClassVar[str]
    safe_to_repeat: ClassVar[bool]
    """True if a call whose outcome is unknown may be made again without harm."""
    arguments: type[ArgumentsType]
    result: ClassVar[type[Result]] = Result

    @cached_property
    def spec(self) -> ToolSpec:
        """As the port has it."""
        return ToolSpec(
            name=self.name,
            description=self.description,
            parameters=schema_of(self.arguments),
            safe_to_repeat=self.safe_to_repeat,
            output_schema=schema_of(self.result),
        )

    async def call(self, context: ToolContext, arguments_json: str) -> ToolReply:
        """Checks the arguments and acts. Wrong arguments are a reply that names the field."""
        try:
            arguments = self.arguments.model_validate_json(arguments_json or "{}")
        except ValidationError as error:
            found = violations(error)
            text = explain(self.name, found)
            return ToolReply.failed(Failure.ARGUMENTS, text, violations=found)
        return await self.act(context, arguments)

    @abstractmethod
    async def act(self, context: ToolContext, arguments: ArgumentsType) -> ToolReply:
        """What the tool does."""
