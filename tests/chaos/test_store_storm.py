"""G1, G2, G3 and the queue, while Postgres, Redis and both replicas of the store are killed."""

from __future__ import annotations

from pathlib import Path

from tests.support.store_storm import StoreStorm, check

SECONDS = 15.0
SEED = 1


async def test_nothing_is_lost_in_a_storm(tmp_path: Path) -> None:
    """20 writers, 4 runtimes, and 50 readers that come and go."""
    async with StoreStorm(tmp_path, SEED) as storm:
        readers = await storm.blow(SECONDS, writers=20, readers=50, workers=4, conversations=10)
        await check(storm, readers)
        assert min(storm.tally.kills[part] for part in ("store0", "store1", "postgres", "redis"))
        assert storm.tally.turns > 0, storm.tally
        assert storm.tally.deltas > 0, storm.tally
