"""How long it takes from a cancel to the death of the last process, over gRPC.

Ours: a program with children that spin, sleep in sessions of their own and ignore SIGTERM gets
SIGKILL by `SignalExecution`; the clock stops when the last of its processes is dead, as their
pidfds on the host say. Reference: SIGKILL to the process group of as many bare processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import select
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb

from bench.harness.latencies import report_bounds
from bench.harness.tool_runner import Runner, interpreter_of, request, tool_runner

BOUNDS = {"p99": 50.0}
_CHILDREN = 10
_PATIENCE_SECONDS = 30.0
# Every process has the mark in its command line; the first one has it as its own argument.
_TREE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for number in range({children}):
    if os.fork() == 0:
        if number % 2:
            os.setsid()
        kinds = {{0: "while True: pass", 1: "import time; time.sleep(600)"}}
        os.execv(sys.executable, [sys.executable, "-c", kinds[number % 5 > 0], "{mark}"])
print("ready", flush=True)
time.sleep(600)
"""


def with_mark(mark: str) -> Iterator[int]:
    """Processes of the host with that argument."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "cmdline").read_bytes():
                yield int(folder.name)


async def descriptors_of(mark: str) -> list[int]:
    """pidfds of all that the program has started, once they are there."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            found = list(with_mark(mark))
            if len(found) >= _CHILDREN:
                return [os.pidfd_open(pid) for pid in found]
            await asyncio.sleep(0.01)


def until_dead(descriptors: Sequence[int], began: float) -> float:
    """Milliseconds from `began` until the last of them is dead."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    left = len(descriptors)
    while left:
        dead = poll.poll(_PATIENCE_SECONDS * 1000)
        if not dead:
            raise TimeoutError(f"{left} processes live on")
        for descriptor, _ in dead:
            poll.unregister(descriptor)
            os.close(descriptor)
            left -= 1
    return (time.perf_counter() - began) * 1000


async def in_a_sandbox(runner: Runner, conversation: str) -> float:
    """Milliseconds of one cancel."""
    mark, execution_id = f"mark-{secrets.token_hex(8)}", f"exec_{secrets.token_hex(8)}"
    code = _TREE.format(children=_CHILDREN, mark=mark)
    stream = runner.stub.Execute(request(code, conversation, execution_id=execution_id))
    async for response in stream:
        if b"ready" in response.item.output.data:
            break
    descriptors = await descriptors_of(mark)
    kill = pb.SignalExecutionRequest(execution_id=execution_id, signal=signal.SIGKILL)
    began = time.perf_counter()
    waiting = asyncio.create_task(asyncio.to_thread(until_dead, descriptors, began))
    await runner.stub.SignalExecution(kill)
    took = await waiting
    async for response in stream:
        if response.item.HasField("finished"):
            assert response.item.finished.reason == pb.EXECUTION_END_REASON_CANCELLED
    return took


async def bare(interpreter: str) -> float:
    """Milliseconds of SIGKILL to a group of as many, all of them in it."""
    mark = f"mark-{secrets.token_hex(8)}"
    code = _TREE.format(children=_CHILDREN, mark=mark).replace("os.setsid()", "pass")
    process = await asyncio.create_subprocess_exec(
        interpreter, "-c", code, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    await process.stdout.readline()
    descriptors = await descriptors_of(mark)
    began = time.perf_counter()
    os.killpg(process.pid, signal.SIGKILL)
    took = await asyncio.to_thread(until_dead, descriptors, began)
    await process.wait()
    return took


async def measure(rounds: int) -> None:
    """Takes the rounds and reports them."""
    ours: list[float] = []
    reference: list[float] = []
    async with tool_runner() as runner:
        interpreter = await interpreter_of(runner)
        conversation = await runner.conversation()
        for number in range(rounds + 1):
            theirs = await bare(interpreter)
            mine = await in_a_sandbox(runner, conversation)
            if number:
                ours.append(mine)
                reference.append(theirs)
            if number % 20 == 0 and number:
                print(f"round {number}: ours {mine:.1f} ms, reference {theirs:.1f} ms", flush=True)
    report_bounds(
        "sandbox_cancel",
        ours,
        reference,
        bounds=BOUNDS,
        reference_name="SIGKILL to a group of as many bare processes",
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
