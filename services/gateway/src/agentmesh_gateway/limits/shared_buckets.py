"""Shared buckets while Redis answers; this replica's share of each while it does not."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Sequence
from dataclasses import replace

from meshkit.tasks import stop

from agentmesh_gateway.limits.buckets import LocalBuckets, Take, Verdict
from agentmesh_gateway.limits.redis_buckets import RedisBuckets, RedisLostError

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
_RETRY_SECONDS = 1.0


class SharedBuckets:
    """Never stops giving and never gives without a limit: without Redis each replica gives what is
    left of a rate when it is divided by the number of replicas that there last were."""

    def __init__(self, shared: RedisBuckets, local: LocalBuckets) -> None:
        self._shared = shared
        self._local = local
        self._lost = False
        self._replicas = 1
        self._watch: asyncio.Task[None] | None = None

    @property
    def lost(self) -> bool:
        """Whether Redis was out of reach when it was last asked."""
        return self._lost

    @property
    def replicas(self) -> int:
        """How many replicas there last were."""
        return self._replicas

    async def start(self) -> None:
        """Looks for Redis and the other replicas, and goes on doing that."""
        await self._look()
        self._watch = asyncio.create_task(
            self._look_for_ever(), name="rate-limit-replicas", context=contextvars.Context()
        )

    async def stop(self) -> None:
        """Closes the connections."""
        if self._watch is not None:
            await stop(self._watch)
        await self._shared.close()

    async def take(self, takes: Sequence[Take]) -> Verdict:
        """See `Buckets.take`."""
        if not self._lost:
            try:
                return await self._shared.take(takes)
            except RedisLostError as error:
                self._lose(error)
        return self._local.take(
            [replace(take, rate=take.rate.share(self._replicas)) for take in takes]
        )

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS if self._lost else _LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            self._replicas = await self._shared.count_replicas()
        except RedisLostError as error:
            self._lose(error)
        else:
            if self._lost:
                self._lost = False
                logger.warning("Redis is back: rate limits are shared by all replicas again")

    def _lose(self, error: RedisLostError) -> None:
        if not self._lost:
            self._lost = True
            logger.warning(
                "Redis is out of reach (%s): each replica grants its share of the rate limits, "
                "1/%d, until it is back",
                error,
                self._replicas,
            )
