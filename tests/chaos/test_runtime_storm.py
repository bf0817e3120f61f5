"""G3, G4, G5 for every kind of team, while both replicas of the runtime are killed and stopped."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.support.runtime_storm import RuntimeStorm, check

CONVERSATIONS = 50


async def test_fifty_conversations_come_through_a_storm(tmp_path: Path) -> None:
    """AGENTMESH_STORM_SEED repeats one."""
    seed = int(os.environ.get("AGENTMESH_STORM_SEED") or time.time())
    sys.stdout.write(f"seed {seed}: repeat with AGENTMESH_STORM_SEED={seed}\n")
    async with RuntimeStorm(tmp_path, seed) as storm:
        courses = await storm.blow(CONVERSATIONS)
        check(storm, courses)
    sys.stdout.write(f"{storm.tally}\n")
    assert storm.tally.kills, storm.tally
    assert storm.tally.long_stops, storm.tally
    assert storm.tally.attempts_lost, storm.tally
