"""What a run that waits for a person holds in memory of the runtime and the tool_runner: 1,000 of
them, beside as many runs that have ended.

Batches of both kinds take turns, so that what grows with every run that ever was, the allocator's
habits and caches that fill, grows for both alike. Ours is what the resident memory of both services
grew per waiting run, the reference the same per ended run; the first batch of each fills caches and
does not count. The noise is how far single batches of ended runs lie from their own mean. None
means: the difference is no larger than that. Traces are off, for the spans of the newest 2,000
runs or so are kept in memory until newer ones take their place. Every tenth run runs a program in a
sandbox first; what processes are left of sandboxes is counted at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics

import psutil
from agentmesh.catalog.v1 import agent_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.gateway.v1 import agent_service_pb2, agent_service_pb2_grpc

from bench.harness.model_server import model_server
from bench.harness.replicas import ENDED, Replicas, replicas

TOKENS = 20
AT_ONCE = 25
WITH_TOOL_EVERY = 10
SETTLE_SECONDS = 3.0
IDLE_SECONDS = 2.0
"""A workspace that is not in use is closed after so long here, where a test cannot wait."""


async def register(mesh: Replicas) -> None:
    """One agent that asks a person after its turn, and the same with a tool."""
    stub: agent_service_pb2_grpc.AgentServiceAsyncStub = agent_service_pb2_grpc.AgentServiceStub(
        mesh.channel
    )
    for name, tools in (("bench_asker", []), ("bench_coder", ["code_executor"])):
        config = agent_service_pb2.AgentConfig(
            role="bench",
            system_message="You ask.",
            tools=tools,
            human_input_mode=agent_pb2.HUMAN_INPUT_MODE_ALWAYS,
        )
        await stub.RegisterAgent(agent_service_pb2.RegisterAgentRequest(name=name, config=config))


async def batch(mesh: Replicas, runs: int, *, waiting: bool) -> float:
    """Bytes by which the memory of both services grew per run, once all wait or have ended."""
    before = resident(mesh)
    room = asyncio.Semaphore(AT_ONCE)
    status = (conversation_pb2.CONVERSATION_STATUS_WAITING,) if waiting else ENDED

    async def one(number: int) -> None:
        async with room:
            agent = "bench_asker" if number % WITH_TOOL_EVERY else "bench_coder"
            name = await mesh.start_conversation(
                [agent], human_input=waiting, max_rounds=5 if waiting else 1
            )
            await mesh.reach([name], *status)

    await asyncio.gather(*(one(number) for number in range(runs)))
    await asyncio.sleep(SETTLE_SECONDS)
    return (resident(mesh) - before) / runs


def resident(mesh: Replicas) -> int:
    """Bytes of the runtime and the tool_runner with all that they started."""
    total = 0
    for process in (mesh.runtimes[0], mesh.tool_runner):
        parent = psutil.Process(process.pid)
        for one in (parent, *parent.children(recursive=True)):
            total += one.memory_info().rss
    return total


def processes(mesh: Replicas) -> int:
    """How many processes the tool_runner has below it."""
    return len(psutil.Process(mesh.tool_runner.pid).children(recursive=True))


async def measure(runs: int, batches: int) -> None:
    """Takes the batches and reports them."""
    ours: list[float] = []
    reference: list[float] = []
    async with (
        model_server(TOKENS, tool_first=True) as base_url,
        replicas(
            base_url,
            AGENTMESH_WORKSPACE_IDLE_SECONDS=str(IDLE_SECONDS),
            OTEL_TRACES_SAMPLER="always_off",
        ) as mesh,
    ):
        await register(mesh)
        size = runs // batches
        await batch(mesh, size, waiting=False)
        await batch(mesh, size, waiting=True)
        idle = processes(mesh)
        for number in range(1, batches + 1):
            reference.append(await batch(mesh, size, waiting=False))
            ours.append(await batch(mesh, size, waiting=True))
            print(
                f"batch {number}: {ours[-1]:.0f} bytes per waiting run, "
                f"{reference[-1]:.0f} per ended one",
                flush=True,
            )
        left = processes(mesh) - idle
    mean = statistics.mean(reference)
    noise = max(abs(one - mean) for one in reference)
    more = statistics.mean(ours) - mean
    print(
        json.dumps(
            {
                "name": "waiting",
                "unit": "bytes per run",
                "ours": round(statistics.mean(ours)),
                "reference": round(mean),
                "reference_name": f"runs that have ended, {size * batches} of each kind",
                "ratio": round(more),
                "target": round(noise),
                "holds": more <= noise and left <= 0,
                "rounds": batches,
                "sandbox_processes_left": left,
            }
        ),
        flush=True,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=5)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.runs, arguments.batches))


if __name__ == "__main__":
    main()
