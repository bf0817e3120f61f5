"""A Redis connection that listens to a changing set of channels, for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from .redis_failures import REDIS_FAILURES, lost_connections

_log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
PING_SECONDS = 5.0
FIRST_DELAY = 0.05
LAST_DELAY = 2.0
_CHANNELS_AT_ONCE = 500
_MESSAGES_IN_A_ROW = 64


class Reports(Protocol):
    """Hears how it goes."""

    def failed(self, part: str, error: BaseException) -> None:
        """Redis did not answer."""
        ...

    def works(self, part: str) -> None:
        """Redis answers."""
        ...


def check_url(url: str) -> None:
    """Raises ValueError for what is no URL of a Redis server, or has options that there are not."""
    try:
        make: Callable[[], object] = client(url).connection_pool.make_connection
        make()
    except TypeError as error:
        raise ValueError(str(error)) from None


def client(url: str) -> Redis:
    """One that says at once what goes wrong: whoever uses it has a way to go on."""
    return Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


class Backoff:
    """Delays that double up to a bound, a little random so that replicas do not march in step."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY

    async def wait(self) -> None:
        """Waits, longer each time."""
        await asyncio.sleep(self._delay * random.uniform(0.5, 1))  # noqa: S311  not a secret
        self._delay = min(LAST_DELAY, 2 * self._delay)

    def reset(self) -> None:
        """It worked."""
        self._delay = FIRST_DELAY


class RedisChannels:
    """Calls `on_message` with each message and its channel, and `on_subscribed` with each channel
    whose messages arrive from now on: also after each reconnection, and when it is wanted once
    more."""

    PART = "listening"

    def __init__(
        self,
        url: str,
        constant: Sequence[str],
        on_message: Callable[[str, bytes], None],
        on_subscribed: Callable[[str], None],
        reports: Reports,
    ) -> None:
        self._url = url
        self._constant = constant
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._reports = reports
        self._wanted: dict[str, None] = {}
        self._changes: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._backoff = Backoff()
        self._heard_at = 0.0

    def want(self, channel: str) -> None:
        """Subscribes to it soon."""
        self._wanted[channel] = None
        self._changes[channel] = True
        self._changed.set()

    def unwant(self, channel: str) -> None:
        """Unsubscribes from it soon."""
        self._wanted.pop(channel, None)
        self._changes[channel] = False
        self._changed.set()

    async def run(self) -> None:
        """Never ends."""
        while True:
            connection = client(self._url)
            try:
                await self._serve(connection.pubsub())
            except* REDIS_FAILURES as group:
                self._reports.failed(self.PART, _first(group))
            except* Exception:
                _log.exception("listening to Redis begins anew after a defect")
            finally:
                await connection.aclose()
            await self._backoff.wait()

    async def _serve(self, pubsub: Any) -> None:
        try:
            self._changes.clear()
            self._heard_at = asyncio.get_running_loop().time()
            await _in_portions(pubsub.subscribe, [*self._constant, *self._wanted])
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(pubsub))
                group.create_task(self._keep_up(pubsub))
        finally:
            await pubsub.aclose()

    async def _read(self, pubsub: Any) -> None:
        loop = asyncio.get_running_loop()
        in_a_row = 0
        async for message in pubsub.listen():
            self._heard_at = loop.time()
            if message["type"] == "message":
                self._on_message(message["channel"].decode(), message["data"])
            elif message["type"] == "subscribe":
                self._subscribed(message["channel"].decode())
            in_a_row += 1
            if in_a_row >= _MESSAGES_IN_A_ROW:
                in_a_row = 0
                # What is in the buffer already is read without a pause otherwise.
                await asyncio.sleep(0)
        raise RedisConnectionError("no channel is subscribed any more")

    def _subscribed(self, channel: str) -> None:
        if channel == self._constant[-1]:
            self._backoff.reset()
            self._reports.works(self.PART)
        if channel in self._wanted or channel in self._constant:
            self._on_subscribed(channel)

    async def _keep_up(self, pubsub: Any) -> None:
        """Subscribes to what is wanted; pings, so that a dead connection is found out."""
        while True:
            changes, self._changes = self._changes, {}
            self._changed.clear()
            await _in_portions(
                pubsub.unsubscribe, [c for c, wanted in changes.items() if not wanted]
            )
            await _in_portions(pubsub.subscribe, [c for c, wanted in changes.items() if wanted])
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                silence = asyncio.get_running_loop().time() - self._heard_at
                if silence > 3 * PING_SECONDS:
                    raise RedisConnectionError("no sign of life") from None
                with lost_connections():
                    await pubsub.ping()


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _in_portions(command: Callable[..., Any], channels: Sequence[str]) -> None:
    with lost_connections():
        for portion in _portions(channels):
            await command(*portion)


def _portions(channels: Sequence[str]) -> Iterator[Sequence[str]]:
    rest = iter(channels)
    while portion := list(islice(rest, _CHANNELS_AT_ONCE)):
        yield portion
