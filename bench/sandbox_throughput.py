"""How many executions a second, how much output a second, and what a warm sandbox costs.

Ours: as many callers as sessions, each with one `Execute` of a one-line program after the other,
over gRPC. Reference: as many bare interpreters at a time. Then one program writes, and the clock
runs from its first byte to the item that says how it ended, while the caller reads all: beside a
bare child process that writes the same into a pipe. Memory is the proportional share of each
warm sandbox's processes, by the kernel's count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb

from bench.harness.tool_runner import (
    Runner,
    bare,
    interpreter_of,
    request,
    timed,
    tool_runner,
    until_warm,
)

LEAST_PER_SECOND = 300.0
LEAST_MEGABYTES_PER_SECOND = 100.0
_SESSIONS = 4
_WARM = 8
_RESIDENT = "/run/resident/start.py"
_WRITTEN = 256 * 1024 * 1024
_WRITER = f"""
import os
piece = b"x" * 65536
for _ in range({_WRITTEN} // len(piece)):
    os.write(1, piece)
"""


async def per_second(one: Callable[[int], Awaitable[float]], count: int) -> float:
    """Executions a second of as many callers as there are sessions."""

    async def caller(number: int) -> None:
        for _ in range(count // _SESSIONS):
            await one(number)

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(_SESSIONS)))
    return count / (time.perf_counter() - began)


async def written_per_second(runner: Runner, conversation: str) -> float:
    """Megabytes (10**6) a second of one program's output."""
    limits = pb.ExecutionLimits(output_bytes=_WRITTEN)
    began, received = 0.0, 0
    async for response in runner.stub.Execute(request(_WRITER, conversation, limits=limits)):
        began = began or (time.perf_counter() if response.item.output.data else 0.0)
        received += len(response.item.output.data)
    assert received == _WRITTEN, f"{received} bytes of {_WRITTEN}"
    return received / 1e6 / (time.perf_counter() - began)


async def bare_written_per_second(interpreter: str) -> float:
    """The same of a child process and its pipe."""
    process = await asyncio.create_subprocess_exec(
        interpreter, "-c", _WRITER, stdout=asyncio.subprocess.PIPE, limit=1 << 20
    )
    assert process.stdout is not None
    began, received = 0.0, 0
    while piece := await process.stdout.read(65536):
        began = began or time.perf_counter()
        received += len(piece)
    await process.wait()
    return received / 1e6 / (time.perf_counter() - began)


def warm_sandbox_mib(count: int) -> float:
    """Of each of so many warm sandboxes: its processes' own memory, their share of the rest."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError, psutil.Error):
            if _RESIDENT in process.cmdline():
                told = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                total += int(told.split("Pss:")[1].split()[0])
    return total / 1024 / count


async def measure(rounds: int, count: int) -> None:
    """Takes the rounds and reports them."""
    settings = {
        "AGENTMESH_WARM_SANDBOXES": str(_WARM),
        "AGENTMESH_MAX_EXECUTION_OUTPUT_MIB": str(_WRITTEN // 2**20),
    }
    ours: list[float] = []
    reference: list[float] = []
    output: list[float] = []
    bare_output: list[float] = []
    async with tool_runner(**settings) as runner:
        interpreter = await interpreter_of(runner)
        conversations = [await runner.conversation() for _ in range(_SESSIONS)]
        await until_warm(runner, _WARM)
        mib = warm_sandbox_mib(_WARM)
        for number in range(rounds + 1):
            theirs = await per_second(lambda _: bare(interpreter), count)
            mine = await per_second(lambda caller: timed(runner, conversations[caller]), count)
            written = await written_per_second(runner, conversations[0])
            bare_written = await bare_written_per_second(interpreter)
            if number:
                for taken, value in zip(
                    (ours, reference, output, bare_output),
                    (mine, theirs, written, bare_written),
                    strict=True,
                ):
                    taken.append(value)
            print(
                f"round {number}: {mine:.0f}/s, bare {theirs:.0f}/s; {written:.0f} MB/s, "
                f"bare {bare_written:.0f} MB/s",
                flush=True,
            )
    result, megabytes = statistics.median(ours), statistics.median(output)
    print(
        json.dumps(
            {
                "name": "sandbox_throughput",
                "unit": "executions/s",
                "ours": round(result, 1),
                "reference": round(statistics.median(reference), 1),
                "reference_name": f"{interpreter} as bare child processes, {_SESSIONS} at a time",
                "ratio": round(result / statistics.median(reference), 3),
                "target": LEAST_PER_SECOND,
                "holds": result >= LEAST_PER_SECOND and megabytes >= LEAST_MEGABYTES_PER_SECOND,
                "rounds": rounds,
                "megabytes_per_second": round(megabytes, 1),
                "megabytes_per_second_target": LEAST_MEGABYTES_PER_SECOND,
                "bare_megabytes_per_second": round(statistics.median(bare_output), 1),
                "warm_sandbox_mib": round(mib, 1),
            }
        ),
        flush=True,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--executions", type=int, default=400)
    options = parser.parse_args()
    asyncio.run(measure(options.rounds, options.executions))


if __name__ == "__main__":
    main()
