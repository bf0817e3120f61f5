"""The storms of the chaos tests for as long as you like: `make soak` takes ten minutes."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support import runtime_storm, store_storm

TELL_SECONDS = 15.0
CONVERSATIONS_AT_A_TIME = 50


async def soak_store(folder: Path, seconds: float, seed: int) -> None:
    """Kills parts of a busy store."""
    began = time.monotonic()

    async def tell(storm: store_storm.StoreStorm) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            print(f"{time.monotonic() - began:4.0f} s  {storm.tally}", flush=True)

    async with store_storm.StoreStorm(folder, seed) as storm:
        telling = asyncio.create_task(tell(storm))
        readers = await storm.blow(seconds, writers=20, readers=50, workers=4, conversations=20)
        telling.cancel()
        await store_storm.check(storm, readers)
        print(f"{time.monotonic() - began:4.0f} s  {storm.tally}")
        print("every reader saw the log, once and in order; nothing acknowledged is missing")


async def soak_runtime(folder: Path, seconds: float, seed: int) -> None:
    """Kills, stops and wakes runtimes in the middle of conversations."""
    began = time.monotonic()
    took = 0.0
    async with runtime_storm.RuntimeStorm(folder, seed) as storm:
        while not storm.tally.conversations or took < seconds:
            courses = await storm.blow(CONVERSATIONS_AT_A_TIME)
            runtime_storm.check(storm, courses)
            took = time.monotonic() - began
            print(f"{took:4.0f} s  {storm.tally}", flush=True)
    print("every conversation is as if nothing had been; no recorded step was repeated")


PARTS: dict[str, Callable[[Path, float, int], Awaitable[None]]] = {
    "store": soak_store,
    "runtime": soak_runtime,
}


async def soak(part: str, seconds: float, seed: int) -> None:
    """Raises AssertionError if a promise was broken; what the services logged is kept then."""
    folder = Path(tempfile.mkdtemp(prefix="agentmesh-soak-"))
    print(f"what the services log: {folder}", flush=True)
    await PARTS[part](folder, seconds, seed)
    shutil.rmtree(folder)


def main() -> None:
    """Soaks for as long as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=list(PARTS), default="store")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}: repeat with --seed {arguments.seed}", flush=True)
    sys.exit(asyncio.run(soak(arguments.part, arguments.seconds, arguments.seed)))


if __name__ == "__main__":
    main()
