"""Which calls a replica refuses when, and how its limit moves."""

from __future__ import annotations

import asyncio

import pytest
from agentmesh.common.v1 import options_pb2
from agentmesh_gateway.limits.overload import Overload
from meshkit.errors import MeshError

SHEDDABLE = options_pb2.IMPORTANCE_SHEDDABLE
NORMAL = options_pb2.IMPORTANCE_NORMAL
VITAL = options_pb2.IMPORTANCE_VITAL


def takes(overload: Overload) -> list[int]:
    """The kinds of calls that are taken now."""
    taken: list[int] = []
    for importance in (SHEDDABLE, NORMAL, VITAL):
        try:
            overload.admit(importance)
        except MeshError as error:
            if error.reason_name != "REPLICA_OVERLOADED" or not error.retry_after:
                raise
        else:
            taken.append(importance)
    return taken


@pytest.mark.parametrize(
    ("under_way", "taken"),
    [
        (79, [SHEDDABLE, NORMAL, VITAL]),
        (80, [NORMAL, VITAL]),
        (99, [NORMAL, VITAL]),
        (100, [VITAL]),
        (149, [VITAL]),
        (150, []),
    ],
)
def test_the_least_important_calls_are_refused_first(under_way: int, taken: list[int]) -> None:
    overload = Overload(max_calls=100, max_lag=1.0, max_memory=0)
    for _ in range(under_way):
        overload.enter()
    assert takes(overload) == taken
    for _ in range(under_way):
        overload.leave()
    assert takes(overload) == [SHEDDABLE, NORMAL, VITAL]


def test_one_pause_of_the_loop_is_no_overload_but_a_lasting_one_is() -> None:
    overload = Overload(max_calls=100, max_lag=1.0, max_memory=0)
    overload.tick(30.0, 0)
    assert takes(overload) == [SHEDDABLE, NORMAL, VITAL]
    for _ in range(4):
        overload.tick(0.9, 0)
    assert takes(overload) == [NORMAL, VITAL]
    for _ in range(5):
        overload.tick(1.5, 0)
    assert takes(overload) == [VITAL]
    overload.tick(0.0, 0)
    assert takes(overload) == [SHEDDABLE, NORMAL, VITAL]


def test_memory_is_looked_at() -> None:
    overload = Overload(max_calls=100, max_lag=1.0, max_memory=1000)
    overload.tick(0.0, 850)
    assert takes(overload) == [NORMAL, VITAL]
    overload.tick(0.0, 1000)
    assert takes(overload) == [VITAL]


def test_a_late_loop_lowers_the_limit_and_one_on_time_raises_it() -> None:
    overload = Overload(max_calls=100, max_lag=1.0, max_memory=0)
    for _ in range(60):
        overload.tick(2.0, 0)
    assert overload.limit == 16  # as few as it ever is
    for _ in range(15):
        overload.enter()
    for _ in range(200):
        overload.tick(0.0, 0)
        if overload.under_way < overload.limit:
            overload.enter()
    assert overload.limit == 100


def test_without_limits_everything_is_taken() -> None:
    overload = Overload(max_calls=0, max_lag=0, max_memory=0)
    for _ in range(10_000):
        overload.enter()
    for _ in range(5):
        overload.tick(60.0, 10**12)
    assert takes(overload) == [SHEDDABLE, NORMAL, VITAL]


async def test_the_loop_is_watched() -> None:
    overload = Overload(max_calls=10, max_lag=1.0, max_memory=1000, memory=lambda: 900)
    await overload.start()
    try:
        async with asyncio.timeout(20):
            while takes(overload) != [NORMAL, VITAL]:
                await asyncio.sleep(0.02)
    finally:
        await overload.stop()
