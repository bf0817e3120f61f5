"""How long cold Python takes in a sandbox, over gRPC.

Ours: one `Execute` of a one-line program at the tool runner, in a sandbox of its own that did not
exist before, until the item that says how it ended. Reference: the same program in the same
interpreter, named by the path that it really has, as a bare child process with pipes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from agentmesh.tool_runner.v1 import tool_runner_service_pb2, tool_runner_service_pb2_grpc
from agentmesh_cli.supervisor import ServiceSpec, ServiceState
from agentmesh_cli.supervisor.service import SupervisedService
from meshkit.channels import MeshChannels
from meshkit.identity import Principal, principal_scope
from meshkit.settings import ServiceSettings
from pydantic import SecretStr

from bench.harness.rounds import Target, interleave, report

PROGRAM = "print('started')"
WHERE = "import os, sys; print(os.path.realpath(sys.executable))"
CALLER = Principal(subject="bench", tenant="bench", role=3)
TARGET = Target("at most", 3.0)
_START_SECONDS = 60.0

# Known to type checkers alone.
Runner: TypeAlias = "tool_runner_service_pb2_grpc.ToolRunnerServiceAsyncStub"


@asynccontextmanager
async def tool_runner() -> AsyncIterator[Runner]:
    """The tool runner as a process of its own; calls to it."""
    secret = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as name:
        folder = Path(name)
        spec = ServiceSpec(
            name="tool_runner",
            command=(sys.executable, "-m", "agentmesh_tool_runner"),
            environment={
                **os.environ,
                "AGENTMESH_DATA_DIR": name,
                "AGENTMESH_GRPC_PORT": "0",
                "AGENTMESH_INTERNAL_SECRET": secret,
                "AGENTMESH_READY_FILE": str(folder / "ready"),
                "AGENTMESH_DRAIN_SECONDS": "1",
            },
            ready_file=folder / "ready",
            log_file=folder / "log",
        )
        service = SupervisedService(spec, lambda status: None)
        running = asyncio.create_task(service.run())
        await asyncio.wait_for(service.wait_serving(), _START_SECONDS)
        assert service.status.state is ServiceState.SERVING, service.status.detail
        settings = ServiceSettings(internal_secret=SecretStr(secret))
        channels = MeshChannels("gateway", settings)
        with principal_scope(CALLER):
            yield tool_runner_service_pb2_grpc.ToolRunnerServiceStub(
                channels.channel(service.status.grpc_address, "tool_runner")
            )
        await channels.close()
        await service.stop(5)
        await running


async def execute(runner: Runner, code: str) -> str:
    """What a program in a fresh sandbox prints; fails unless it exits with 0."""
    request = tool_runner_service_pb2.ExecuteRequest(
        language=tool_runner_service_pb2.EXECUTION_LANGUAGE_PYTHON, code=code
    )
    output = b""
    async for response in runner.Execute(request):
        output += response.item.output.data
        if response.item.HasField("finished"):
            finished = response.item.finished
            assert finished.exit_code == 0, (finished, output)
    return output.decode()


async def in_a_sandbox(runner: Runner) -> float:
    """Milliseconds of one cold execution."""
    began = time.perf_counter()
    printed = await execute(runner, PROGRAM)
    took = (time.perf_counter() - began) * 1000
    assert printed == "started\n", printed
    return took


async def bare(interpreter: str) -> float:
    """Milliseconds of the same program as a child process."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        interpreter, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    took = (time.perf_counter() - began) * 1000
    assert printed == b"started\n", printed
    return took


async def measure(rounds: int) -> None:
    """Takes the rounds and reports them."""
    async with tool_runner() as runner:
        interpreter = (await execute(runner, WHERE)).strip()
        assert os.access(interpreter, os.X_OK), f"{interpreter} is not on this machine"
        print(f"interpreter: {interpreter}")
        taken = await interleave(
            lambda: in_a_sandbox(runner), lambda: bare(interpreter), rounds, "ms", say_every=20
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
