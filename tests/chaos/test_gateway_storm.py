"""Two replicas of the gateway, killed at random while clients change things and repeat what failed
under its `request_id`: each change is made once, recorded, and told to every subscriber once."""

from __future__ import annotations

from pathlib import Path

from tests.support.gateway_storm import GatewayStorm

SECONDS = 8.0
SEED = 7


async def test_each_change_is_made_once_in_a_storm(tmp_path: Path, postgres_url: str) -> None:
    async with GatewayStorm(tmp_path, postgres_url, SEED) as storm:
        await storm.blow(SECONDS, writers=8, readers=4)
        await storm.check()
