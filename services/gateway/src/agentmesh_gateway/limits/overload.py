"""Whether this replica has more to do than it can, and what it refuses then.

Three things are looked at: the calls under way, how late the event loop is, and the memory of the
process. Each is a share of its limit; the largest one is the pressure. From 0.8 on sheddable calls
are refused, from 1.0 on normal ones; vital ones only when the calls under way are one and a half
times as many as the configured limit, because memory ends somewhere.

The limit of the calls under way is found by trying: where the loop is late although fewer calls are
under way, the limit shrinks by a tenth; where calls came near it and the loop is on time it grows
by a twentieth, up to the configured one. Little's law does the rest: fewer calls under way are
served sooner each.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable

from agentmesh.common.v1 import errors_pb2, options_pb2
from grpc import StatusCode
from meshkit.errors import MeshError
from meshkit.tasks import stop

from agentmesh_gateway.limits.memory import resident_bytes

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
_TICK_SECONDS = 0.1
_TICKS = 5
_MEMORY_TICKS = 10
_LEAST_CALLS = 16
_SHRINK, _GROW = 0.9, 1.05
_NEAR = 0.7
_THRESHOLDS: dict[int, float] = {
    options_pb2.IMPORTANCE_SHEDDABLE: 0.8,
    options_pb2.IMPORTANCE_NORMAL: 1.0,
}
_VITAL_MARGIN = 1.5


class Overload:
    """The load of this replica. A limit of 0 is none.

    `max_lag` bounds, in seconds, how late the loop is all the time for half a second; one long
    pause is none of that.
    """

    def __init__(
        self,
        *,
        max_calls: int,
        max_lag: float,
        max_memory: int,
        memory: Callable[[], int] = resident_bytes,
    ) -> None:
        self._max_calls = max_calls
        self._max_lag = max_lag
        self._max_memory = max_memory
        self._memory = memory
        self.limit = float(max_calls)
        """The calls under way that the replica takes at present."""
        self.under_way = 0
        self._most = 0
        self._lags: deque[float] = deque([0.0] * _TICKS, maxlen=_TICKS)
        self._steady = 0.0
        self._shed = 0
        self._ticker: asyncio.Task[None] | None = None

    @property
    def pressure(self) -> float:
        """1.0: as much as the replica can do."""
        calls = self.under_way / self.limit if self._max_calls else 0.0
        return max(calls, self._steady)

    def admit(self, importance: int) -> None:
        """Raises MeshError UNAVAILABLE if calls so important are not taken now."""
        if self._takes(importance):
            return
        self._shed += 1
        raise MeshError(
            StatusCode.UNAVAILABLE,
            errors_pb2.ERROR_REASON_REPLICA_OVERLOADED,
            "this replica of the gateway has more to do than it can; call again",
            retry_after=RETRY_SECONDS,
        )

    def enter(self) -> None:
        """A call begins."""
        self.under_way += 1
        self._most = max(self._most, self.under_way)

    def leave(self) -> None:
        """A call ended."""
        self.under_way -= 1

    async def start(self) -> None:
        """Begins to look at the loop and the memory."""
        self._ticker = asyncio.create_task(
            self._tick_for_ever(), name="overload", context=contextvars.Context()
        )

    async def stop(self) -> None:
        """Ends that."""
        await stop(self._ticker)

    def tick(self, lag: float, memory: int) -> None:
        """What was seen: how late the loop was in seconds, and the memory in bytes."""
        self._lags.append(lag)
        late = min(self._lags) / self._max_lag if self._max_lag else 0.0
        full = memory / self._max_memory if self._max_memory else 0.0
        self._steady = max(late, full)
        if late >= 1.0:
            self.limit = max(float(min(_LEAST_CALLS, self._max_calls)), self.limit * _SHRINK)
        elif self._most >= _NEAR * self.limit:
            self.limit = min(float(self._max_calls), self.limit * _GROW)
        self._most = self.under_way

    def _takes(self, importance: int) -> bool:
        threshold = _THRESHOLDS.get(importance)
        if threshold is not None:
            return self.pressure < threshold
        return not self._max_calls or self.under_way < _VITAL_MARGIN * self._max_calls

    async def _tick_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        memory, ticks = self._memory(), 0
        while True:
            due = loop.time() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            ticks += 1
            if ticks % _MEMORY_TICKS == 0:
                memory = self._memory()
                self._report()
            self.tick(max(0.0, loop.time() - due), memory)

    def _report(self) -> None:
        """One line a second, not one for each call: that would be more load."""
        if self._shed:
            logger.warning(
                "overloaded: %d calls refused in a second; %d under way of %d, pressure %.2f",
                self._shed,
                self.under_way,
                self.limit,
                self.pressure,
            )
            self._shed = 0
