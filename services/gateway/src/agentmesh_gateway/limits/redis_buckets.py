"""Buckets that all replicas share, in Redis.

Calls that ask while an answer is under way are asked for together with the next script call, so
that a busy replica pays one round trip for many calls. A bucket that is known to be empty is not
asked about before a token can have come back.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from meshkit.tasks import stop
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agentmesh_gateway.limits.buckets import Take, Verdict

TIMEOUT_SECONDS = 0.25
_AT_ONCE = 256
_MOST_EMPTY = 10_000
_REPLICA_SECONDS = 5.0
_FORGOTTEN_AFTER = 3 * _REPLICA_SECONDS
_MICROS = 1_000_000

# For each call: how many buckets, then interval and tolerance of each, in microseconds. Answers,
# for each call: 1 or 0, then the backlog of each bucket. Numbers are written out in full, because
# Lua would round them to 14 digits.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer, key, at = {}, 0, 1
while at <= #ARGV do
  local count, granted, before, after = tonumber(ARGV[at]), 1, {}, {}
  for i = 1, count do
    local interval, tolerance = tonumber(ARGV[at + 2 * i - 1]), tonumber(ARGV[at + 2 * i])
    local full = tonumber(redis.call('GET', KEYS[key + i]) or now)
    if full < now then full = now end
    before[i], after[i] = full, full + interval
    if after[i] - now > tolerance + 1 then granted = 0 end
  end
  answer[#answer + 1] = granted
  for i = 1, count do
    local full = before[i]
    if granted == 1 then
      full = after[i]
      redis.call('SET', KEYS[key + i], string.format('%.0f', full),
        'PX', math.ceil((full - now) / 1000) + 1)
    end
    answer[#answer + 1] = string.format('%.0f', full - now)
  end
  key, at = key + count, at + 1 + 2 * count
end
return answer
"""


class RedisLostError(Exception):
    """Redis does not answer."""


@dataclass(slots=True)
class _Asked:
    takes: Sequence[Take]
    answer: asyncio.Future[Verdict]


class RedisBuckets:
    """Buckets under `prefix` in the Redis server at `url`."""

    def __init__(
        self, url: str, prefix: str, replica: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = client(url)
        self._script = self._redis.register_script(_SCRIPT)
        self._prefix = prefix
        self._replica = replica
        self._clock = clock
        self._waiting: list[_Asked] = []
        self._asking: asyncio.Task[None] | None = None
        self._empty: OrderedDict[tuple[Take, ...], tuple[float, Verdict]] = OrderedDict()

    async def take(self, takes: Sequence[Take]) -> Verdict:
        """See `Buckets.take`. Raises RedisLostError."""
        wanted = tuple(takes)
        known = self._known_empty(wanted)
        if known is not None:
            return known
        asked = _Asked(wanted, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._asking is None:
            self._asking = asyncio.create_task(
                self._ask(), name="redis-buckets", context=contextvars.Context()
            )
        verdict = await asked.answer
        if not verdict.granted:
            self._remember(wanted, verdict)
        return verdict

    async def count_replicas(self) -> int:
        """How many replicas take from these buckets; this one is among them. Raises
        RedisLostError."""
        key = f"{self._prefix}:gateways"
        try:
            seconds, micros = await self._redis.time()
            now = seconds + micros / _MICROS
            async with self._redis.pipeline(transaction=True) as both:
                both.zadd(key, {self._replica: now})
                both.zremrangebyscore(key, "-inf", now - _FORGOTTEN_AFTER)
                both.zcard(key)
                both.expire(key, int(2 * _FORGOTTEN_AFTER))
                answers = await both.execute()
        except (RedisError, OSError, RuntimeError) as error:
            raise RedisLostError(str(error)) from error
        return max(1, int(answers[2]))

    async def close(self) -> None:
        """Leaves the other replicas and closes the connections."""
        if self._asking is not None:
            await stop(self._asking)
        with suppress(RedisError, OSError, RuntimeError):  # they will notice by themselves
            await self._redis.zrem(f"{self._prefix}:gateways", self._replica)
        await self._redis.aclose()

    async def _ask(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
                try:
                    self._answer(batch, await self._call(batch))
                except BaseException as error:
                    _fail(batch, error)
                    if not isinstance(error, (RedisError, OSError, RuntimeError)):
                        raise
        finally:
            _fail(self._waiting, RedisLostError("closed"))
            self._waiting = []
            self._asking = None

    async def _call(self, batch: Sequence[_Asked]) -> list[bytes | int]:
        keys: list[str] = []
        numbers: list[float] = []
        for asked in batch:
            numbers.append(len(asked.takes))
            for take in asked.takes:
                keys.append(f"{self._prefix}:rate:{take.key}")
                numbers += [take.rate.interval * _MICROS, take.rate.tolerance * _MICROS]
        answer: list[bytes | int] = await self._script(keys=keys, args=numbers)
        return answer

    def _answer(self, batch: Sequence[_Asked], answers: Sequence[bytes | int]) -> None:
        numbers = iter(answers)
        for asked in batch:
            granted = bool(int(next(numbers)))
            backlogs = [int(next(numbers)) / _MICROS for _ in asked.takes]
            if not asked.answer.done():
                asked.answer.set_result(Verdict(granted, asked.takes, backlogs))

    def _known_empty(self, takes: tuple[Take, ...]) -> Verdict | None:
        if takes not in self._empty:
            return None
        since, refused = self._empty[takes]
        verdict = refused.later(self._clock() - since)
        if not verdict.retry_in:
            del self._empty[takes]
            return None
        return verdict

    def _remember(self, takes: tuple[Take, ...], verdict: Verdict) -> None:
        self._empty[takes] = (self._clock(), verdict)
        if len(self._empty) > _MOST_EMPTY:
            self._empty.popitem(last=False)


def client(url: str) -> Redis:
    """One that says at once what goes wrong: whoever uses it has a way to go on."""
    return Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


def check_url(url: str) -> None:
    """Raises ValueError for what is no URL of a Redis server."""
    try:
        make: Callable[[], object] = client(url).connection_pool.make_connection
        make()
    except TypeError as error:
        raise ValueError(str(error)) from None


def _fail(batch: Sequence[_Asked], error: BaseException) -> None:
    for asked in batch:
        if not asked.answer.done():
            asked.answer.set_exception(RedisLostError(str(error) or type(error).__name__))
