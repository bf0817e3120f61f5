"""Whoever holds an execution that is still compiled can feed it, resize it and end it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from agentmesh_tool_runner.languages import Language, Program
from agentmesh_tool_runner.sandbox.backend import Execution
from agentmesh_tool_runner.sandbox.model import EndReason, ExecutionSpec, Limits, TerminalSize

from services.tool_runner.tests.results import result_of

from .conftest import Bench

pytestmark = pytest.mark.asyncio(loop_scope="module")

COPIES = (
    "#include <stdio.h>\n#include <sys/ioctl.h>\n"
    "int main() { struct winsize size = {0}; ioctl(0, TIOCGWINSZ, &size); char line[99];\n"
    'while (fgets(line, 99, stdin)) printf("%d %d %s", size.ws_row, size.ws_col, line); }'
)


@pytest_asyncio.fixture(loop_scope="module")
async def stuck(bench: Bench) -> AsyncIterator[Program]:
    """A program whose compiler waits for somebody to write into a pipe, which nobody does."""
    workspace = await bench.workspace()
    argv = ["/bin/sh", "-c", "rm -f never; mkfifo never"]
    await result_of(await workspace.execute(ExecutionSpec(argv)))
    await workspace.write_file("main.c", b'#warning begun\n#include "never"\n')
    yield Program(Language.C, path="main.c", limits=Limits(wall_seconds=60))
    await workspace.remove("never")


async def test_input_waits_for_the_program(bench: Bench) -> None:
    execution = await bench.start(Program(Language.C, code=COPIES, keep_stdin_open=True))
    await execution.write_stdin(b"one\n")
    await execution.write_stdin(b"two\n", close=True)
    assert (await result_of(execution)).stdout == "0 0 one\n0 0 two\n"


async def test_a_terminal_that_is_resized_while_it_is_compiled(bench: Bench) -> None:
    program = Program(Language.C, code=COPIES, stdin=b"x\n", terminal=TerminalSize(1, 2))
    execution = await bench.start(program)
    execution.resize(TerminalSize(33, 44))
    assert (await result_of(execution)).stdout == "x\r\n33 44 x\r\n"
    pipes = await bench.start(replace(program, terminal=None))
    with pytest.raises(ValueError, match="no terminal"):
        pipes.resize(TerminalSize(1, 1))
    await result_of(pipes)


@pytest.mark.parametrize("at_once", [True, False])
async def test_cancel_while_it_is_compiled(bench: Bench, stuck: Program, at_once: bool) -> None:
    execution = await bench.start(stuck)
    if not at_once:
        await _until_compiling(execution)
    execution.cancel()
    execution.cancel(EndReason.WALL_TIMEOUT)
    ended = await result_of(execution)
    assert ended.outcome.reason is EndReason.CANCELLED
    assert execution.finished
    with pytest.raises(BrokenPipeError):
        await execution.write_stdin(b"x")


async def test_a_signal_while_it_is_compiled_ends_the_compiler(
    bench: Bench, stuck: Program
) -> None:
    execution = await bench.start(stuck)
    await _until_compiling(execution)
    execution.send_signal(15)
    assert (await result_of(execution)).outcome.reason is EndReason.COMPILE_ERROR


async def test_wall_time_while_it_is_compiled(bench: Bench, stuck: Program) -> None:
    ended = await bench.run(replace(stuck, limits=Limits(wall_seconds=0.5)))
    assert ended.outcome.reason is EndReason.WALL_TIMEOUT
    assert ended.outcome.detail == "while it was compiled"


async def _until_compiling(execution: Execution) -> None:
    """Until it has said its first word, a warning."""
    assert b"begun" in (await anext(execution.output())).data
