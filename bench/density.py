"""How many runs one core carries: a runtime pinned to a core of its own, a model that takes 1 s.

More and more runs are under way at once until a turn takes more than 1.3 times what it takes when
one run is alone, in the median; p95 stands beside it. A turn is measured from commit to commit, by
the store's clock. The runs begin spread over the second that the model takes, as they would come.
All other processes share the other cores. `cpu_ms` is what a turn costs the runtime's core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Sequence
from itertools import pairwise

from bench.harness.mesh import register_agents
from bench.harness.model_server import model_server
from bench.harness.replicas import (
    ENDED,
    Replicas,
    committed_at,
    cpu_seconds,
    pin,
    replicas,
)
from bench.harness.rounds import Target

TEAM = {"bench_writer": "You write.", "bench_editor": "You edit."}
TOKENS = 40
DELAY_SECONDS = 1.0
TURNS = 6
BOUND = 1.3
LEVELS = (50, 80, 100, 120, 140, 160, 200, 250)
TARGET = Target("at least", 100)


async def turn_times(mesh: Replicas, runs: int) -> list[float]:
    """Milliseconds of the turns of so many runs at once, without each run's first."""

    async def start(number: int) -> str:
        await asyncio.sleep(DELAY_SECONDS * number / runs)
        return await mesh.start_conversation(list(TEAM), max_rounds=TURNS)

    started = await asyncio.gather(*(start(number) for number in range(runs)))
    await mesh.reach(started, *ENDED)
    times: list[float] = []
    for conversation_id in started:
        commits = [
            committed_at(event)
            for event in await mesh.events(conversation_id)
            if event.HasField("turn_committed")
        ]
        assert len(commits) == TURNS, f"{len(commits)} turns instead of {TURNS}"
        times += [1000 * (later - earlier) for earlier, later in pairwise(commits)]
    return times


def _p95(times: Sequence[float]) -> float:
    return sorted(times)[int(0.95 * len(times))]


async def measure(levels: Sequence[int]) -> None:
    """Raises the number of runs until turns get too slow, and reports."""
    cores = sorted(os.sched_getaffinity(0))
    assert len(cores) > 1, "one core for the runtime and one for the rest are needed"
    os.sched_setaffinity(0, set(cores[1:]))
    async with model_server(TOKENS, DELAY_SECONDS) as base_url, replicas(base_url) as mesh:
        await register_agents(mesh.channel, TEAM)
        await turn_times(mesh, 2)
        pin(mesh.runtimes[0], cores[0])
        alone = statistics.median(await turn_times(mesh, 1))
        held, seen = 1, {}
        for runs in levels:
            busy = cpu_seconds(mesh.runtimes[0])
            times = await turn_times(mesh, runs)
            ratio = statistics.median(times) / alone
            seen[runs] = {
                "p50": round(statistics.median(times), 1),
                "p95": round(_p95(times), 1),
                "ratio": round(ratio, 3),
                "cpu_ms": round(1000 * (cpu_seconds(mesh.runtimes[0]) - busy) / (runs * TURNS), 2),
            }
            print(f"{runs} runs: a turn takes {seen[runs]}; alone {alone:.1f} ms", flush=True)
            if ratio > BOUND:
                break
            held = runs
        # The same again, so that what else the machine did meanwhile is seen.
        alone_again = statistics.median(await turn_times(mesh, 1))
    print(
        json.dumps(
            {
                "name": "density",
                "unit": "runs",
                "ours": held,
                "reference": 1,
                "reference_name": f"one run alone, a turn of which takes {alone:.0f} ms",
                "ratio": held,
                "target": TARGET.ratio,
                "holds": TARGET.holds(held),
                "rounds": len(seen),
                "alone_ms": [round(alone, 1), round(alone_again, 1)],
                "turn_ms": seen,
            }
        ),
        flush=True,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", type=int, nargs="+", default=list(LEVELS))
    asyncio.run(measure(parser.parse_args().levels))


if __name__ == "__main__":
    main()
