"""How long Python takes in a session that is open, over gRPC.

Ours: one `Execute` of a one-line program in a conversation's workspace that has been used before,
until the item that says how it ended. References in the same rounds: `docker exec` of it in a
container that runs, AutoGen's Docker executor on one that runs, and the same interpreter as a bare
child process. A round is ten of each, the one after the other, as a session is used. The ratio is
to `docker exec` where an engine can be started, else to the child.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock
from autogen_ext.code_executors.docker import DockerCommandLineCodeExecutor

from bench.harness.containers import Engine, engine
from bench.harness.latencies import report_bounds
from bench.harness.tool_runner import PROGRAM, bare, interpreter_of, timed, tool_runner

BOUNDS = {"p50": 5.0, "p95": 8.0}
_EXPECTED = "started\n"
_IN_A_ROW = 10

Sample = Callable[[], Awaitable[float]]


async def docker_exec(docker: Engine, container: str) -> float:
    """Milliseconds of one `docker exec`."""
    began = time.perf_counter()
    printed = await asyncio.to_thread(docker.exec, container, ["python3", "-c", PROGRAM])
    took = (time.perf_counter() - began) * 1000
    assert _EXPECTED.encode() in printed, printed
    return took


@contextlib.asynccontextmanager
async def autogen(docker: Engine) -> AsyncIterator[Sample]:
    """AutoGen's executor with its container."""
    os.environ["DOCKER_HOST"] = docker.address
    # It would start `python`, which Debian's image does not have under that name.
    block = CodeBlock(code=f'exec python3 -c "{PROGRAM}"', language="sh")
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as folder:
        # The image's user is another one than ours.
        os.chmod(folder, 0o777)  # noqa: PTH101, S103 - a folder of this run alone
        executor = DockerCommandLineCodeExecutor(image=docker.image, work_dir=folder)
        await executor.start()

        async def sample() -> float:
            began = time.perf_counter()
            result = await executor.execute_code_blocks([block], CancellationToken())
            took = (time.perf_counter() - began) * 1000
            assert result.output == _EXPECTED, result
            return took

        try:
            yield sample
        finally:
            await executor.stop()


async def measure(rounds: int) -> None:
    """Takes the rounds and reports them."""
    async with contextlib.AsyncExitStack() as stack:
        docker = stack.enter_context(engine())
        runner = await stack.enter_async_context(tool_runner())
        interpreter = await interpreter_of(runner)
        conversation = await runner.conversation()
        samples: dict[str, Sample] = {
            "ours": lambda: timed(runner, conversation),
            "bare": lambda: bare(interpreter),
        }
        if docker is not None:
            container = stack.enter_context(docker.container())
            samples["docker exec"] = lambda: docker_exec(docker, container)
            samples["AutoGen"] = await stack.enter_async_context(autogen(docker))
        taken: dict[str, list[float]] = {name: [] for name in samples}
        for number in range(rounds + 1):
            for name, sample in samples.items():
                # The first of some in a row finds what the others have left in the caches.
                took = [await sample() for _ in range(_IN_A_ROW)]
                if number:
                    taken[name] += took
            if number % 5 == 0 and number:
                told = ", ".join(
                    f"{name} {statistics.median(each[-_IN_A_ROW:]):.1f} ms"
                    for name, each in taken.items()
                )
                print(f"round {number}: {told}", flush=True)
    beside = "docker exec" if docker is not None else "bare"
    report_bounds(
        "warm_execute",
        taken["ours"],
        taken[beside],
        bounds=BOUNDS,
        reference_name="docker exec" if docker is not None else f"{interpreter} bare: no Docker",
        more={f"{name}_p50": round(statistics.median(each), 2) for name, each in taken.items()},
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
