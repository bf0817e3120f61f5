"""What a program of a sandbox did."""

from __future__ import annotations

from dataclasses import dataclass

from agentmesh_tool_runner.sandbox.backend import Execution
from agentmesh_tool_runner.sandbox.model import Outcome, Stream


@dataclass(frozen=True)
class Result:
    """All that it wrote, and how it ended."""

    outcome: Outcome
    stdout: str
    stderr: str


async def result_of(execution: Execution) -> Result:
    """Reads it to its end."""
    output = {Stream.STDOUT: b"", Stream.STDERR: b""}
    async for piece in execution.output():
        output[piece.stream] += piece.data
    stdout, stderr = (output[stream].decode(errors="replace") for stream in Stream)
    return Result(await execution.outcome(), stdout, stderr)
