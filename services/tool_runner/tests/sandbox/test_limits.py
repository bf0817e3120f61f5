"""Every limit ends a program that passes it, with its own reason, and leaves others alone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from agentmesh_tool_runner.sandbox.backend import Workspace
from agentmesh_tool_runner.sandbox.model import MIB, EndReason, ExecutionSpec, Limits, Stream

from .conftest import LIMITS, Run, collect


async def test_program_that_ends_by_itself(python: Run) -> None:
    ended = await python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (ended.stdout, ended.stderr) == ("out\n", "err\n")
    assert ended.outcome.reason is EndReason.EXITED
    assert ended.outcome.exit_code == 3
    assert ended.outcome.usage.stdout_bytes == 4
    assert ended.outcome.usage.wall_seconds > 0
    assert ended.outcome.usage.peak_memory_bytes > 0


async def test_program_that_a_signal_ends(shell: Run) -> None:
    ended = await shell("kill -TERM $$")
    assert ended.outcome.reason is EndReason.SIGNALED
    assert ended.outcome.signal == 15


async def test_program_that_is_not_there(workspace: Workspace) -> None:
    ended = await collect(workspace, ExecutionSpec(["no-such-program"], limits=LIMITS))
    assert ended.outcome.reason is EndReason.SANDBOX_LOST
    assert "No such file" in ended.outcome.detail


async def test_program_is_found_on_the_path(workspace: Workspace) -> None:
    ended = await collect(workspace, ExecutionSpec(["echo", "found"], limits=LIMITS))
    assert ended.stdout == "found\n"


async def test_standard_input_is_what_was_given(python: Run) -> None:
    ended = await python("import sys; print(sys.stdin.read().upper())", stdin=b"hello")
    assert ended.stdout == "HELLO\n"


async def test_standard_input_that_stays_open(workspace: Workspace) -> None:
    execution = await workspace.execute(
        ExecutionSpec(["/bin/cat"], keep_stdin_open=True, limits=LIMITS)
    )
    await execution.write_stdin(b"one ")
    await execution.write_stdin(b"two", close=True)
    data = b"".join([piece.data async for piece in execution.output()])
    assert data == b"one two"
    assert (await execution.outcome()).succeeded


async def test_output_comes_while_the_program_runs(workspace: Workspace) -> None:
    spec = ExecutionSpec(
        ["/bin/sh", "-c", "echo first; read line; echo last"], keep_stdin_open=True
    )
    execution = await workspace.execute(spec)
    output = execution.output()
    first = await anext(output)
    assert (first.stream, first.data) == (Stream.STDOUT, b"first\n")
    await execution.write_stdin(b"go\n")
    assert [piece.data async for piece in output] == [b"last\n"]


async def test_wall_time(python: Run) -> None:
    ended = await python("import time; time.sleep(600)", replace(LIMITS, wall_seconds=0.3))
    assert ended.outcome.reason is EndReason.WALL_TIMEOUT


async def test_cpu_time_of_all_processes_together(python: Run) -> None:
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    ended = await python(code, replace(LIMITS, cpu_seconds=0.5, cpus=2.0))
    assert ended.outcome.reason is EndReason.CPU_TIMEOUT


async def test_memory_of_one_process(python: Run) -> None:
    ended = await python("x = []\nwhile True: x.append(bytearray(4 << 20))")
    assert ended.outcome.reason is EndReason.OUT_OF_MEMORY


async def test_memory_of_a_family(python: Run) -> None:
    """Each child stays far below the limit; together they pass it."""
    code = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = bytearray(os.urandom(1)) * (100 << 20)
        time.sleep(60)
        os._exit(0)
while True:
    pid, status = os.wait()
    if status:
        raise SystemExit(1)
"""
    ended = await python(code)
    assert ended.outcome.reason is EndReason.OUT_OF_MEMORY


async def test_processes(python: Run) -> None:
    code = "import os, time\nfor _ in range(500):\n    if os.fork() == 0: time.sleep(60)"
    ended = await python(code)
    assert ended.outcome.reason is EndReason.PROCESS_LIMIT


async def test_fork_bomb_is_gone_when_it_is_over(shell: Run, python: Run) -> None:
    await shell("b() { b | b & }; b; sleep 600", replace(LIMITS, wall_seconds=1.0))
    assert (await python("print('still here')")).stdout == "still here\n"


@pytest.mark.parametrize("folder", ["/workspace", "/tmp", "/dev/shm"])  # noqa: S108 - inside
async def test_disk(python: Run, folder: str) -> None:
    """Many files, none of them large."""
    code = f"""
for number in range(10_000):
    with open(f"{folder}/{{number}}", "wb") as file:
        file.write(bytes(1 << 20))
"""
    limits = Limits(memory_bytes=1024 * MIB, temporary_bytes=32 * MIB)
    ended = await python(code, limits)
    assert ended.outcome.reason is EndReason.DISK_FULL


async def test_deleted_files_that_stay_open_count_for_the_disk(python: Run) -> None:
    code = """
import os
held = []
for number in range(200):
    held.append(open(f"{number}", "wb"))
    os.unlink(f"{number}")
    held[-1].write(bytes(4 << 20))
    held[-1].flush()
"""
    ended = await python(code, Limits(memory_bytes=1024 * MIB))
    assert ended.outcome.reason is EndReason.DISK_FULL


async def test_number_of_files(python: Run) -> None:
    code = "for n in range(100_000): open(f'/workspace/{n}', 'w').close()"
    ended = await python(code)
    assert ended.outcome.reason is EndReason.DISK_FULL


async def test_output_is_cut_at_its_limit(python: Run) -> None:
    limits = replace(LIMITS, output_bytes=10_000)
    ended = await python("while True: print('x' * 1000)", limits)
    assert ended.outcome.reason is EndReason.OUTPUT_LIMIT
    assert ended.outcome.output_truncated
    assert len(ended.stdout) == 10_000


async def test_memory_without_a_process_is_bounded_too(python: Run) -> None:
    """memfd pages belong to no address space; System V segments outlive their maker."""
    code = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
segments = sum(libc.shmget(0, 64 << 20, 0o1666) >= 0 for _ in range(64))
held = 0
try:
    for _ in range(32):
        descriptor = os.memfd_create("x")
        for _ in range(16):
            held += os.write(descriptor, bytes(1 << 20))
except OSError:
    pass
print(json.dumps([segments, held]))
"""
    ended = await python(code)
    if ended.outcome.reason is EndReason.OUT_OF_MEMORY:
        return
    segments, held = json.loads(ended.stdout)
    assert segments == 0
    assert held == 0


async def test_cancel_kills_the_whole_tree(workspace: Workspace, python: Run) -> None:
    """Daemons included: new sessions, double forks, signals ignored."""
    code = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("/workspace/alive", "a").write("x")
        print("ready", flush=True)
        while True:
            open("/workspace/alive", "a").write("x")
            time.sleep(0.01)
    os._exit(0)
time.sleep(600)
"""
    spec = ExecutionSpec(["/usr/bin/python3", "-c", code], limits=LIMITS)
    execution = await workspace.execute(spec)
    await anext(execution.output())
    execution.cancel()
    assert (await execution.outcome()).reason is EndReason.CANCELLED
    before = await workspace.read_file("alive")
    await asyncio.sleep(0.2)
    assert await workspace.read_file("alive") == before


async def test_executions_do_not_see_each_other(workspace: Workspace, shell: Run) -> None:
    other = await workspace.execute(ExecutionSpec(["/bin/sleep", "600"], limits=LIMITS))
    seen = await shell("ls /proc | grep -c '^[0-9]'; kill -9 -1; echo survived")
    assert int(seen.stdout.split()[0]) <= 4
    assert not other.finished
    other.cancel()
    await other.outcome()
