"""How long it takes from a new session to its first result, over gRPC.

Ours: one `Execute` in the workspace of a conversation that has none yet, from the pool of warm
sandboxes, until the item that says how it ended. Reference: `docker run` of the same program where
an engine can be started, else the same interpreter as a bare child process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time

from bench.harness.containers import Engine, engine
from bench.harness.latencies import report_bounds
from bench.harness.tool_runner import (
    PROGRAM,
    bare,
    interpreter_of,
    timed,
    tool_runner,
    until_warm,
)

BOUNDS = {"p50": 10.0, "p99": 50.0}
_WARM = 2


async def docker_run(docker: Engine) -> float:
    """Milliseconds of one `docker run`."""
    began = time.perf_counter()
    printed = await asyncio.to_thread(docker.run, ["python3", "-c", PROGRAM])
    took = (time.perf_counter() - began) * 1000
    assert b"started\n" in printed, printed
    return took


async def measure(rounds: int) -> None:
    """Takes the rounds and reports them."""
    async with contextlib.AsyncExitStack() as stack:
        docker = stack.enter_context(engine())
        # Room for all sessions: what it takes to close others is not what is measured.
        settings = {
            "AGENTMESH_WARM_SANDBOXES": str(_WARM),
            "AGENTMESH_MAX_OPEN_WORKSPACES": str(rounds + 10),
        }
        runner = await stack.enter_async_context(tool_runner(**settings))
        interpreter = await interpreter_of(runner)
        ours: list[float] = []
        reference: list[float] = []
        for number in range(rounds + 1):
            theirs = await (bare(interpreter) if docker is None else docker_run(docker))
            await until_warm(runner, _WARM)
            mine = await timed(runner, await runner.conversation())
            if number:
                ours.append(mine)
                reference.append(theirs)
            if number % 20 == 0 and number:
                print(f"round {number}: ours {mine:.1f} ms, reference {theirs:.1f} ms", flush=True)
    report_bounds(
        "session_start",
        ours,
        reference,
        bounds=BOUNDS,
        reference_name="docker run" if docker is not None else f"{interpreter} bare: no Docker",
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
