"""A program is held back by its reader, loses nothing by that, and is signalled with its family."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from agentmesh_tool_runner.sandbox.backend import SandboxBackend, Workspace
from agentmesh_tool_runner.sandbox.model import MIB, EndReason, ExecutionSpec, Stream

from .conftest import LIMITS, Run, collect


async def test_a_slow_reader_holds_the_program_back(
    workspace: Workspace, backend: SandboxBackend
) -> None:
    """The program counts in a file what it could write; nobody takes it, so that stays bounded."""
    code = (
        "import os\nblock = bytes(1 << 16)\n"
        "for number in range(1, 257):\n"
        "    os.write(1, block)\n    open('count', 'w').write(str(number))"
    )
    limits = replace(LIMITS, output_bytes=16 * MIB)
    spec = ExecutionSpec(["/usr/bin/python3", "-c", code], limits=limits)
    execution = await workspace.execute(spec)
    counts: list[bytes] = []
    while len(counts) < 20 or len(set(counts[-20:])) > 1:
        await asyncio.sleep(0.05)
        counts.append(await _count(workspace))
    # An engine on the way has buffers of its own.
    assert 16 <= int(counts[-1]) <= (80 if backend.own_image else 40)
    received = 0
    async for piece in execution.output():
        received += len(piece.data)
    assert received == 16 * MIB
    assert (await execution.outcome()).reason is EndReason.EXITED


async def _count(workspace: Workspace) -> bytes:
    try:
        return await workspace.read_file("count")
    except FileNotFoundError:
        return b""


async def test_what_a_program_wrote_last_is_there_however_late_it_is_read(
    workspace: Workspace,
) -> None:
    size = MIB + 48 * 1024  # more than is taken from a pipe ahead of its reader, and fits the rest
    spec = ExecutionSpec(
        ["/bin/sh", "-c", f"head -c {size} /dev/zero"],
        limits=replace(LIMITS, output_bytes=4 * MIB),
    )
    execution = await workspace.execute(spec)
    assert (await execution.outcome()).reason is EndReason.EXITED
    assert sum([len(piece.data) async for piece in execution.output()]) == size


async def test_what_nobody_reads_does_not_keep_a_killed_program(workspace: Workspace) -> None:
    limits = replace(LIMITS, output_bytes=64 * MIB, wall_seconds=1)
    spec = ExecutionSpec(["/bin/sh", "-c", "cat /dev/zero"], limits=limits)
    execution = await workspace.execute(spec)
    assert (await execution.outcome()).reason is EndReason.WALL_TIMEOUT


async def test_a_signal_reaches_the_children_of_a_shell(workspace: Workspace) -> None:
    """The shell has a trap, and waits for its child before it runs it."""
    command = "trap 'echo shell; exit 5' USR1; (trap 'echo child; exit' USR1; echo ready; %s)"
    loop = "while :; do sleep 0.05; done"
    execution = await workspace.execute(
        ExecutionSpec(["/bin/sh", "-c", command % loop], limits=LIMITS)
    )
    output = execution.output()
    assert (await anext(output)).data == b"ready\n"
    execution.send_signal(10)
    # The streams are not ordered to each other; a shell may tell of the signal on the other one.
    said = b"".join([piece.data async for piece in output if piece.stream is Stream.STDOUT])
    assert b"child\n" in said
    assert said.endswith(b"shell\n")
    assert (await execution.outcome()).exit_code == 5


async def test_input_files_can_be_run_and_not_written(shell: Run, workspace: Workspace) -> None:
    spec = ExecutionSpec(
        ["/run/input/program"],
        files={"program": b"#!/bin/sh\necho runs\necho x >> $0 || echo kept\n"},
        limits=LIMITS,
    )
    assert (await collect(workspace, spec)).stdout == "runs\nkept\n"


async def test_whoever_gives_up_writing_leaves_no_task_behind(workspace: Workspace) -> None:
    spec = ExecutionSpec(["/bin/sleep", "60"], limits=LIMITS, keep_stdin_open=True)
    execution = await workspace.execute(spec)
    await asyncio.sleep(0)
    before = asyncio.all_tasks()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await execution.write_stdin(bytes(16 * MIB))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    named = {str(task.get_coro()) for task in asyncio.all_tasks() - before}
    assert not {name for name in named if "wait" in name or "outcome" in name}
    execution.cancel()
    await execution.outcome()
