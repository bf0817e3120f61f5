"""code_writer and code_executor: files of source, and programs that really run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from agentmesh_tool_runner.languages import Language, LanguageNotInstalledError, Program
from agentmesh_tool_runner.sandbox.model import (
    INPUT_DIRECTORY,
    EndReason,
    ExecutionSpec,
    InterpreterUnavailableError,
    Limits,
)

from .tool import Arguments, Finished, ReplyOutcome, Result, Tool, ToolContext, ToolReply

_MAX_SOURCE: Final = 512 * 1024
# Parsed in the sandbox: a hostile source can bring a parser down.
_SYNTAX_CHECK: Final = """
import ast, json, pathlib, sys
path = pathlib.Path(sys.argv[1])
text = path.read_bytes()
try:
    ast.parse(text, str(path)) if path.suffix == ".py" else json.loads(text)
except SyntaxError as error:
    sys.exit(f"{path}:{error.lineno}:{error.offset}: {error.msg}")
except ValueError as error:
    sys.exit(f"{path}: {error}")
"""
_CHECKED: Final = (".py", ".json")

_REASONS: Final = {
    EndReason.SIGNALED: "a signal ended it",
    EndReason.WALL_TIMEOUT: "it took longer than {limits.wall_seconds:g} s and was killed",
    EndReason.CPU_TIMEOUT: "it used more than {limits.cpu_seconds:g} s of CPU time and was killed",
    EndReason.OUT_OF_MEMORY: "it wanted more memory than it may have",
    EndReason.PROCESS_LIMIT: "it wanted more processes than it may have",
    EndReason.DISK_FULL: "its workspace is full",
    EndReason.OUTPUT_LIMIT: "it wrote more than {limits.output_bytes} bytes and was killed",
    EndReason.COMPILE_ERROR: "it does not compile",
    EndReason.CANCELLED: "it was cancelled",
    EndReason.SANDBOX_LOST: "the sandbox died under it",
}


class WriteArguments(Arguments):
    """A source file."""

    path: str = Field(min_length=1, max_length=1024, description="Relative to the workspace.")
    content: str = Field(max_length=_MAX_SOURCE, description="The whole file.")


class WriteResult(Result):
    """Of a file that was written."""

    bytes: int


class CodeWriter(Tool[WriteArguments]):
    """Writes source."""

    name = "code_writer"
    description = (
        "Writes a source file into the workspace, replacing it if it exists, and checks the syntax "
        "of Python and JSON files."
    )
    safe_to_repeat = True
    arguments = WriteArguments
    result = WriteResult

    async def act(self, context: ToolContext, arguments: WriteArguments) -> ToolReply:
        """A syntax error is an error; the file is written even so, to be mended."""
        data = arguments.content.encode()
        await context.workspace.write_file(arguments.path, data)
        lines = len(arguments.content.splitlines())
        written = f"wrote {arguments.path}: {lines} lines, {len(data)} bytes"
        if PurePosixPath(arguments.path).suffix not in _CHECKED:
            return ToolReply.ok(written, bytes=len(data))
        spec = ExecutionSpec(
            [context.python, "-I", f"{INPUT_DIRECTORY}/check.py", arguments.path],
            files={"check.py": _SYNTAX_CHECK.encode()},
            limits=context.limits,
        )
        checked = await context.execute(spec)
        if checked.outcome.succeeded:
            return ToolReply.ok(f"{written}; the syntax is right", bytes=len(data))
        problem = checked.stderr.strip() or checked.outcome.reason.value
        return ToolReply.error(f"{written}; but the syntax is wrong: {problem}", bytes=len(data))


class ExecuteArguments(Arguments):
    """A program: its text, or the path of a file of the workspace."""

    language: Literal[
        "python", "shell", "javascript", "typescript", "java", "c", "cpp", "go", "rust"
    ] = "python"
    code: str | None = Field(
        default=None, max_length=_MAX_SOURCE, description="The program text: one source file."
    )
    path: str | None = Field(
        default=None,
        max_length=1024,
        description="A file to run instead, with what it includes or imports beside it.",
    )
    args: list[str] = Field(default_factory=list, max_length=100)
    stdin: str = Field(default="", max_length=_MAX_SOURCE)
    timeout_seconds: float | None = Field(default=None, gt=0, le=3600)
    stateful: bool = Field(
        default=False,
        description="Python only: run in the conversation's interpreter, whose variables last "
        "from one such call to the next, and show what the last expression is worth.",
    )

    @model_validator(mode="after")
    def _one_program(self) -> ExecuteArguments:
        if self.stateful and self.language != "python":
            raise ValueError("stateful: only Python has an interpreter that keeps its variables")
        if self.stateful and self.args:
            raise ValueError("args: an interpreter that runs already takes none")
        if (self.code is None) == (self.path is None):
            raise ValueError("code: give either code or path")
        if self.path is not None and self.path.startswith(("/", "-")):
            raise ValueError("path: must be relative to the workspace")
        return self


class ExecutionUsageResult(Result):
    """What a program used."""

    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


class ExecuteResult(Result):
    """How a program ended."""

    reason: str
    exit_code: int | None = None
    signal: int | None = None
    fresh_interpreter: bool | None = None
    usage: ExecutionUsageResult


class CodeExecutor(Tool[ExecuteArguments]):
    """Runs a program."""

    name = "code_executor"
    description = (
        "Runs a program in the workspace, in a sandbox without network, and answers with its exit "
        "code and output; of a compiled language also with what its compiler says. pytest is "
        "there: shell code `python3 -m pytest -q`."
    )
    safe_to_repeat = False
    arguments = ExecuteArguments
    result = ExecuteResult

    async def act(self, context: ToolContext, arguments: ExecuteArguments) -> ToolReply:
        """An exit code other than 0 is an error for the model to mend."""
        limits = context.limits
        if arguments.timeout_seconds is not None:
            wall = min(arguments.timeout_seconds, limits.wall_seconds)
            limits = replace(limits, wall_seconds=wall)
        program = Program(
            Language(arguments.language),
            code=arguments.code,
            path=arguments.path,
            args=arguments.args,
            stdin=arguments.stdin.encode(),
            limits=limits,
            stateful=arguments.stateful,
        )
        try:
            finished = await context.execute(program, live=True)
        except InterpreterUnavailableError as error:
            return ToolReply.error(f"stateful: {error}")
        except LanguageNotInstalledError as error:
            return ToolReply.error(f"language: {error}")
        return _reply(finished, limits)


def _reply(finished: Finished, limits: Limits) -> ToolReply:
    outcome = finished.outcome
    if outcome.reason is EndReason.EXITED:
        first = f"exit code {outcome.exit_code}"
    else:
        why = _REASONS[outcome.reason].format(limits=limits)
        first = f"ended: {why}" + (f" ({outcome.detail})" if outcome.detail else "")
    if finished.fresh_interpreter:
        first += "; the interpreter is new: it has no variables of earlier calls"
    parts = [first, finished.stdout.rstrip("\n")]
    if finished.stderr.strip():
        parts += ["stderr:", finished.stderr.rstrip("\n")]
    kind = ReplyOutcome.OK if outcome.succeeded else ReplyOutcome.ERROR
    if outcome.reason is EndReason.CANCELLED:
        kind = ReplyOutcome.CANCELLED
    return ToolReply(
        kind,
        "\n".join(part for part in parts if part),
        _detail(finished),
        outcome.output_truncated,
        outcome.usage.cpu_seconds,
    )


def _detail(finished: Finished) -> dict[str, Any]:
    outcome = finished.outcome
    detail: dict[str, Any] = {
        "reason": outcome.reason.value,
        "usage": {
            "wall_seconds": round(outcome.usage.wall_seconds, 3),
            "cpu_seconds": round(outcome.usage.cpu_seconds, 3),
            "peak_memory_bytes": outcome.usage.peak_memory_bytes,
        },
    }
    if outcome.exit_code is not None:
        detail["exit_code"] = outcome.exit_code
    if outcome.signal is not None:
        detail["signal"] = outcome.signal
    if finished.fresh_interpreter is not None:
        detail["fresh_interpreter"] = finished.fresh_interpreter
    return detail
