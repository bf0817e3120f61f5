"""Token buckets: what each kind of them does, and what happens when Redis comes and goes."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from agentmesh_gateway.limits.buckets import LocalBuckets, Rate, Take, Verdict
from agentmesh_gateway.limits.redis_buckets import RedisBuckets, RedisLostError
from agentmesh_gateway.limits.shared_buckets import SharedBuckets

from services.gateway.tests.clock import Clock
from tests.support.databases import ProgramMissingError, RedisServer

SLOW = Rate(per_second=0.001, burst=5)
"""Gives nothing back while a test runs."""
ENOUGH_SECONDS = 20


async def take(buckets: Any, *takes: Take) -> Verdict:
    """From buckets that answer at once or later."""
    verdict = buckets.take(takes)
    answer: Verdict = await verdict if inspect.isawaitable(verdict) else verdict
    return answer


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that may be stopped."""
    try:
        server = RedisServer()
    except ProgramMissingError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest_asyncio.fixture(params=["local", "redis", "shared"])
async def buckets(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Each kind of buckets."""
    if request.param == "local":
        yield LocalBuckets(100)
        return
    redis = RedisBuckets(request.getfixturevalue("redis_url"), "mesh", "gw_1")
    if request.param == "redis":
        yield redis
        await redis.close()
        return
    shared = SharedBuckets(redis, LocalBuckets(100))
    await shared.start()
    yield shared
    await shared.stop()


async def test_a_burst_is_granted_and_not_one_more(buckets: Any) -> None:
    verdicts = [await take(buckets, Take("k", SLOW)) for _ in range(7)]
    assert [verdict.granted for verdict in verdicts] == [True] * 5 + [False] * 2
    assert [verdict.standings[0].remaining for verdict in verdicts] == [4, 3, 2, 1, 0, 0, 0]
    retry = verdicts[-1].standings[0].retry_in
    assert 900 < retry <= 1000
    assert verdicts[-1].standings[0].full_in > retry


async def test_tokens_are_taken_from_all_buckets_or_none(buckets: Any) -> None:
    narrow, wide = Take("narrow", Rate(0.001, 2)), Take("wide", Rate(0.001, 100))
    for _ in range(2):
        assert (await take(buckets, narrow, wide)).granted
    for _ in range(3):
        refused = await take(buckets, narrow, wide)
        assert not refused.granted
        assert refused.refused_by == 0
    assert (await take(buckets, wide)).standings[0].remaining == 97


async def test_keys_have_buckets_of_their_own(buckets: Any) -> None:
    for _ in range(6):
        await take(buckets, Take("a", SLOW))
    assert (await take(buckets, Take("b", SLOW))).granted


async def test_what_was_taken_comes_back(buckets: Any) -> None:
    quick = Take("k", Rate(per_second=20, burst=1))
    assert (await take(buckets, quick)).granted
    async with asyncio.timeout(ENOUGH_SECONDS):
        while not (await take(buckets, quick)).granted:
            await asyncio.sleep(0.005)


async def test_calls_at_once_get_no_more_than_the_burst(buckets: Any) -> None:
    verdicts = await asyncio.gather(*(take(buckets, Take("k", SLOW)) for _ in range(50)))
    assert sum(verdict.granted for verdict in verdicts) == 5


def test_tokens_come_back_at_the_rate() -> None:
    clock = Clock()
    buckets = LocalBuckets(10, clock)
    wanted = Take("k", Rate(per_second=10, burst=20))
    assert sum(buckets.take([wanted]).granted for _ in range(30)) == 20
    clock.now += 0.1
    assert sum(buckets.take([wanted]).granted for _ in range(30)) == 1
    clock.now += 1.0
    assert sum(buckets.take([wanted]).granted for _ in range(30)) == 10
    clock.now += 3600
    assert sum(buckets.take([wanted]).granted for _ in range(30)) == 20
    refused = buckets.take([wanted]).standings[0]
    assert refused.retry_in == pytest.approx(0.1)
    assert refused.full_in == pytest.approx(2.0)


def test_local_buckets_are_bounded_and_forget_the_oldest() -> None:
    buckets = LocalBuckets(3)
    for key in "abcd":
        for _ in range(6):
            buckets.take([Take(key, SLOW)])
    assert len(buckets) == 3
    assert not buckets.take([Take("d", SLOW)]).granted
    assert buckets.take([Take("a", SLOW)]).granted


async def test_replicas_share_a_rate(redis_url: str) -> None:
    replicas = [RedisBuckets(redis_url, "mesh", f"gw_{n}") for n in range(3)]
    asked = (take(replicas[n % 3], Take("k", SLOW)) for n in range(60))
    verdicts = await asyncio.gather(*asked)
    assert sum(verdict.granted for verdict in verdicts) == 5
    for replica in replicas:
        assert await replica.count_replicas() >= 1
    assert await replicas[0].count_replicas() == 3
    await replicas[2].close()
    assert await replicas[0].count_replicas() == 2
    for replica in replicas[:2]:
        await replica.close()


async def test_an_empty_bucket_is_not_asked_about_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    buckets = RedisBuckets(redis_url, "mesh", "gw_1", clock)
    for _ in range(6):
        await take(buckets, Take("k", SLOW))
    calls = 0
    ask = buckets._call

    async def counted(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        return await ask(batch)

    monkeypatch.setattr(buckets, "_call", counted)
    assert not (await take(buckets, Take("k", SLOW))).granted
    assert calls == 0
    clock.now += 3600
    assert not (await take(buckets, Take("k", SLOW))).granted
    assert calls == 1
    await buckets.close()


async def test_without_redis_each_replica_grants_its_share(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    replicas = [
        SharedBuckets(RedisBuckets(own_redis.url, "mesh", f"gw_{n}"), LocalBuckets(100))
        for n in range(2)
    ]
    for replica in (*replicas, replicas[0]):
        await replica._look()
    wide = Rate(0.001, 10)
    assert (await take(replicas[0], Take("k", wide))).granted
    own_redis.stop()
    verdicts = [await take(replicas[0], Take("k", wide)) for _ in range(12)]
    assert sum(verdict.granted for verdict in verdicts) == 5  # half of ten
    assert replicas[0].lost
    said = [record for record in caplog.records if "out of reach" in record.getMessage()]
    assert len(said) == 1
    for replica in replicas:
        await replica.stop()


async def test_redis_is_used_again_when_it_is_back(own_redis: RedisServer) -> None:
    shared = SharedBuckets(RedisBuckets(own_redis.url, "mesh", "gw_1"), LocalBuckets(100))
    await shared.start()
    own_redis.stop()
    await take(shared, Take("k", SLOW))
    assert shared.lost
    own_redis.start()
    async with asyncio.timeout(ENOUGH_SECONDS):
        while shared.lost:
            await asyncio.sleep(0.02)
    other = RedisBuckets(own_redis.url, "mesh", "gw_2")
    assert (await take(shared, Take("fresh", SLOW))).standings[0].remaining == 4
    assert (await take(other, Take("fresh", SLOW))).standings[0].remaining == 3
    await shared.stop()
    await other.close()


async def test_a_gateway_starts_without_redis() -> None:
    nowhere = RedisBuckets("redis://127.0.0.1:1/0", "mesh", "gw_1")
    with pytest.raises(RedisLostError):
        await take(nowhere, Take("k", SLOW))
    shared = SharedBuckets(nowhere, LocalBuckets(100))
    await shared.start()
    verdicts = [await take(shared, Take("k", SLOW)) for _ in range(6)]
    assert [verdict.granted for verdict in verdicts] == [True] * 5 + [False]
    await shared.stop()
