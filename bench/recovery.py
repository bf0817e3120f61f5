"""How long a run stands still when its runtime is killed: 20 runs on one replica, another stays.

The clock starts with the SIGKILL and stops, for each run, with the next event that a runtime wrote,
by the store's clock. The model takes 500 ms, and what was under way is asked for again. Beside it:
how long the same runs are silent between such events when nobody is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from itertools import pairwise

from agentmesh.conversation.v1 import conversation_pb2, event_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2

from bench.harness.latencies import Latencies
from bench.harness.mesh import register_agents
from bench.harness.model_server import model_server
from bench.harness.replicas import Replicas, committed_at, replicas
from bench.harness.rounds import Target

TEAM = {"bench_writer": "You write.", "bench_editor": "You edit."}
TOKENS = 40
DELAY_SECONDS = 0.5
RUNS = 20
BEFORE_SECONDS = 3.0
PATIENCE_SECONDS = 30.0
TARGET = Target("at most", 5000.0)


def _by_runtimes(events: Sequence[event_pb2.Event]) -> list[float]:
    """When a runtime wrote something."""
    return [committed_at(e) for e in events if e.origin == event_pb2.EVENT_ORIGIN_RUNTIME]


async def one_round(mesh: Replicas) -> tuple[list[float], list[float]]:
    """Milliseconds of silence of each run after the kill, and of the longest silence before.

    All runs are on the first runtime, because the second comes when they are under way.
    """
    victim = mesh.runtimes.pop(0)
    started = await asyncio.gather(
        *(mesh.start_conversation(list(TEAM), max_rounds=1000) for _ in range(RUNS))
    )
    await mesh.reach(started, conversation_pb2.CONVERSATION_STATUS_RUNNING)
    await mesh.add_runtime()
    await asyncio.sleep(BEFORE_SECONDS)
    before = []
    for conversation_id in started:
        times = _by_runtimes(await mesh.events(conversation_id))
        before.append(1000 * max(later - earlier for earlier, later in pairwise(times)))
    killed_at = time.time()
    await victim.sigkill()
    silences = [await _silence(mesh, name, killed_at) for name in started]
    for conversation_id in started:
        await mesh.stub.CancelConversation(
            pb2.CancelConversationRequest(conversation_id=conversation_id)
        )
    return silences, before


async def _silence(mesh: Replicas, conversation_id: str, since: float) -> float:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            times = _by_runtimes(await mesh.events(conversation_id))
            after = [at for at in times if at > since]
            if after:
                return 1000 * (min(after) - since)
            await asyncio.sleep(0.1)


async def measure(rounds: int) -> None:
    """Takes the rounds and reports them."""
    silences: list[Latencies] = []
    before: list[Latencies] = []
    async with model_server(TOKENS, DELAY_SECONDS) as base_url, replicas(base_url) as mesh:
        await register_agents(mesh.channel, TEAM)
        for number in range(1, rounds + 1):
            after_kill, undisturbed = await one_round(mesh)
            silences.append(Latencies.of(after_kill))
            before.append(Latencies.of(undisturbed))
            print(
                f"round {number}: {max(after_kill):.0f} ms at most after the kill, "
                f"{max(undisturbed):.0f} ms before",
                flush=True,
            )
    worst = max(one.max for one in silences)
    print(
        json.dumps(
            {
                "name": "recovery",
                "unit": "ms",
                "ours": Latencies.median(silences).rounded(),
                "reference": Latencies.median(before).rounded(),
                "reference_name": "the longest silence of the same runs before the kill",
                "ratio": round(worst / max(one.max for one in before), 3),
                "worst": round(worst, 1),
                "target": TARGET.ratio,
                "holds": TARGET.holds(worst),
                "rounds": rounds,
            }
        ),
        flush=True,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
