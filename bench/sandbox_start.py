"""How long cold Python takes in a sandbox, over gRPC.

Ours: one `Execute` of a one-line program at the tool runner, in a sandbox of its own that did not
exist before, until the item that says how it ended; none is kept warm. Reference: the same program
in the same interpreter, named by the path that it really has, as a bare child process with pipes.
"""

from __future__ import annotations

import argparse
import asyncio

from bench.harness.rounds import Target, interleave, report
from bench.harness.tool_runner import bare, interpreter_of, timed, tool_runner

TARGET = Target("at most", 3.0)


async def measure(rounds: int) -> None:
    """Takes the rounds and reports them."""
    async with tool_runner(AGENTMESH_WARM_SANDBOXES="0") as runner:
        interpreter = await interpreter_of(runner)
        print(f"interpreter: {interpreter}")
        taken = await interleave(
            lambda: timed(runner), lambda: bare(interpreter), rounds, "ms", say_every=20
        )
    report(
        "sandbox_start",
        "ms",
        taken,
        reference_name=f"{interpreter} as a bare child process",
        target=TARGET,
        distribution=True,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
