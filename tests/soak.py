"""The storm of the chaos tests for as long as you like: `make soak` takes ten minutes."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.support.store_storm import StoreStorm, check

TELL_SECONDS = 15.0


async def soak(seconds: float, seed: int) -> None:
    """Raises AssertionError if a promise was broken; what the stores logged is kept then."""
    began = time.monotonic()

    async def tell(storm: StoreStorm) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            print(f"{time.monotonic() - began:4.0f} s  {storm.tally}", flush=True)

    folder = Path(tempfile.mkdtemp(prefix="agentmesh-soak-"))
    print(f"what the stores log: {folder}", flush=True)
    async with StoreStorm(folder, seed) as storm:
        telling = asyncio.create_task(tell(storm))
        readers = await storm.blow(seconds, writers=20, readers=50, workers=4, conversations=20)
        telling.cancel()
        await check(storm, readers)
        print(f"{time.monotonic() - began:4.0f} s  {storm.tally}")
        print("every reader saw the log, once and in order; nothing acknowledged is missing")
    shutil.rmtree(folder)


def main() -> None:
    """Soaks for as long as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}: repeat with --seed {arguments.seed}", flush=True)
    sys.exit(asyncio.run(soak(arguments.seconds, arguments.seed)))


if __name__ == "__main__":
    main()
