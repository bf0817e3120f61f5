"""Fan-out between replicas over Redis."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b

from google.protobuf.message import DecodeError
from meshkit.tasks import stop

from . import wire
from .interface import (
    ConversationDeleted,
    DeltasMade,
    EventsCommitted,
    N,
    Notice,
    NoticesMissed,
    TextWanted,
)
from .listeners import Listeners
from .outbox import Outbox, Outgoing
from .redis_channels import Backoff, RedisChannels, client
from .redis_failures import REDIS_FAILURES, lost_connections
from .seal import Seal

_log = logging.getLogger(__name__)

NOTICES_AT_ONCE = 512
BYTES_AT_ONCE = 1024 * 1024
LAST_WORDS_SECONDS = 1.0
STRANGERS_SECONDS = 60.0
_FORMAT = "v1"


class RedisFanout:
    """Tells the listeners of this replica at once and in process, those of others over Redis.

    Everything goes on without Redis: its loss is logged once, notices wait in a bounded queue, and
    whoever follows hears `NoticesMissed` when they arrive again.
    """

    def __init__(self, url: str, prefix: str, seal: Seal) -> None:
        self._url = url
        self._seal = seal
        self._prefix = f"{prefix}:{_FORMAT}"
        self._origin = secrets.token_hex(8)
        self._listeners = Listeners()
        self._outbox = Outbox()
        self._followed: dict[str, tuple[str, str]] = {}
        self._reach = _Reach()
        self._strangers = _Strangers()
        self._control = f"{self._prefix}:all"
        constant = [self._replica_channel(self._origin), self._control]
        self._channels = RedisChannels(url, constant, self._receive, self._subscribed, self._reach)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> bool:
        """True while notices reach other replicas, as far as is known."""
        return self._reach.complete

    async def start(self) -> None:
        """See `Fanout`."""
        self._tasks = [
            asyncio.create_task(self._channels.run(), name="redis-listen"),
            asyncio.create_task(self._send(), name="redis-publish"),
        ]

    async def stop(self) -> None:
        """See `Fanout`."""
        if not self._tasks:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS if self.connected else 0):
                await self._outbox.emptied()
        await stop(*self._tasks)
        self._tasks = []

    def publish(self, notice: Notice) -> None:
        """See `Fanout`."""
        self._listeners.tell(notice)
        self._outbox.put(self._channel_for(notice), notice)

    def tell(self, replica: str | None, notice: DeltasMade) -> None:
        """See `Fanout`."""
        channel = self._channel_for(notice) if replica is None else self._replica_channel(replica)
        self._outbox.put(channel, notice)

    def listen(self, kind: type[N], listener: Callable[[N], None]) -> None:
        """See `Fanout`."""
        self._listeners.add(kind, listener)

    def follow(self, tenant: str, conversation_id: str) -> bool:
        """See `Fanout`."""
        channel = self._conversation_channel(tenant, conversation_id)
        self._followed[channel] = (tenant, conversation_id)
        self._channels.want(channel)
        return True

    def unfollow(self, tenant: str, conversation_id: str) -> None:
        """See `Fanout`."""
        channel = self._conversation_channel(tenant, conversation_id)
        if self._followed.pop(channel, None) is not None:
            self._channels.unwant(channel)

    def _channel_for(self, notice: Notice) -> str:
        if isinstance(notice, EventsCommitted | DeltasMade | ConversationDeleted):
            return self._conversation_channel(notice.tenant, notice.conversation_id)
        return self._control

    def _conversation_channel(self, tenant: str, conversation_id: str) -> str:
        # Hashed, because names may hold any character, and others may list channels.
        name = blake2b(f"{len(tenant)} {tenant} {conversation_id}".encode(), digest_size=16)
        return f"{self._prefix}:conversation:{name.hexdigest()}"

    def _replica_channel(self, replica: str) -> str:
        return f"{self._prefix}:replica:{replica}"

    def _subscribed(self, channel: str) -> None:
        """Only now may others be asked: what they say after their answer will be heard."""
        followed = self._followed.get(channel)
        if followed is not None:
            self._outbox.put(self._control, TextWanted(self._origin, *followed))
            self._listeners.tell(NoticesMissed([followed]))
        elif channel == self._control:
            self._listeners.tell(NoticesMissed())

    def _receive(self, channel: str, data: bytes) -> None:
        message = self._seal.opened(channel, data)
        if message is None:
            self._strangers.heard()
            return
        try:
            notices = list(wire.decoded(message, self._origin))
        except (DecodeError, ValueError) as error:
            _log.warning("a message on Redis is no notice: %s", type(error).__name__)
            return
        for notice in notices:
            if self._concerns_us(notice):
                self._listeners.tell(notice)

    def _concerns_us(self, notice: Notice) -> bool:
        """What arrives after `unfollow` would be kept for ever: nobody tells of its end."""
        if not isinstance(notice, EventsCommitted | DeltasMade):
            return True
        channel = self._conversation_channel(notice.tenant, notice.conversation_id)
        return channel in self._followed

    async def _send(self) -> None:
        backoff = Backoff()
        connection = client(self._url)
        try:
            while True:
                await self._outbox.filled()
                entries = self._outbox.take(NOTICES_AT_ONCE, BYTES_AT_ONCE)
                try:
                    with lost_connections():
                        async with connection.pipeline(transaction=False) as pipeline:
                            for channel, data in self._encoded(entries):
                                pipeline.publish(channel, data)
                            await pipeline.execute()
                except REDIS_FAILURES as error:
                    # Twice heard is harmless, so all of it is said again.
                    self._outbox.put_back(entries)
                    self._reach.failed("publishing", error)
                    await backoff.wait()
                except Exception:
                    _log.exception("%d notices could not be published", len(entries))
                else:
                    self._outbox.sent()
                    self._reach.works("publishing")
                    backoff.reset()
        finally:
            await connection.aclose()

    def _encoded(self, entries: Sequence[Outgoing]) -> Iterator[tuple[str, bytes]]:
        """One message for each channel: order matters within one only."""
        by_channel: dict[str, list[Notice]] = {}
        for entry in entries:
            by_channel.setdefault(entry.channel, []).append(entry.notice)
        for channel, notices in by_channel.items():
            yield channel, self._seal.sealed(channel, wire.encoded(self._origin, notices))


class _Reach:
    """Says once that Redis is away, and once that it is back."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._begun = False

    @property
    def complete(self) -> bool:
        return self._begun and not self._failing

    def failed(self, part: str, error: BaseException) -> None:
        if not self._failing:
            _log.warning(
                "Redis is out of reach, so replicas look for each other's events once a second "
                "and show no text in the making: %s",
                error,
            )
        self._failing.add(part)

    def works(self, part: str) -> None:
        self._begun = True
        if part in self._failing:
            self._failing.discard(part)
            if not self._failing:
                _log.info("Redis is back")


class _Strangers:
    """Says now and then that there are messages of others: there may be very many."""

    def __init__(self) -> None:
        self._count = 0
        self._silent_until = 0.0

    def heard(self) -> None:
        self._count += 1
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + STRANGERS_SECONDS
            _log.warning(
                "%d messages on Redis are no notice of this mesh: do others use the same Redis and"
                " AGENTMESH_REDIS_PREFIX, or do the replicas not share one"
                " AGENTMESH_INTERNAL_SECRET?",
                self._count,
            )
            self._count = 0
