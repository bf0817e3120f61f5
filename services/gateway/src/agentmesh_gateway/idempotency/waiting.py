"""Repetitions that wait while the same request is being carried out."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
MOST_OF_A_TENANT = 100
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0
_CALL_AGAIN_SECONDS = 5.0


class RequestKey(NamedTuple):
    """A request of somebody's."""

    tenant: str
    subject: str
    method: str
    request_id: str


@dataclass(slots=True)
class _Line:
    """Those who wait for one request; whoever has the turn asks for all of them."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class Waiters:
    """All that wait in this process: of each request one asks how it stands, ever more rarely."""

    def __init__(
        self, *, most: int = MOST_OF_A_TENANT, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._most = most
        self._patience_seconds = patience_seconds
        self._lines: dict[RequestKey, _Line] = {}
        self._waiting: Counter[str] = Counter()

    @property
    def under_way(self) -> int:
        """How many wait."""
        return self._waiting.total()

    async def wait(self, key: RequestKey, ask: Callable[[], Awaitable[T | None]]) -> T:
        """What `ask` returns, once that is something. Raises MeshError if that takes too long, or
        if too many of the tenant wait."""
        if self._waiting[key.tenant] >= self._most:
            raise MeshError.overloaded(
                f"{self._most} repeated requests of this tenant wait here already",
                retry_after=_CALL_AGAIN_SECONDS,
            )
        line = self._lines.setdefault(key, _Line())
        line.length += 1
        self._waiting[key.tenant] += 1
        try:
            async with asyncio.timeout(self._patience_seconds) as patience:
                return await _answer(line, ask)
        except TimeoutError:
            if not patience.expired():
                raise
            raise _under_way(key.request_id) from None
        finally:
            self._leave(key, line)

    def _leave(self, key: RequestKey, line: _Line) -> None:
        line.length -= 1
        if not line.length:
            del self._lines[key]
        self._waiting[key.tenant] -= 1
        if not self._waiting[key.tenant]:
            del self._waiting[key.tenant]


async def _answer(line: _Line, ask: Callable[[], Awaitable[T | None]]) -> T:
    had_to_wait = line.turn.locked()
    async with line.turn:
        pause = _FIRST_PAUSE_SECONDS
        # Who had the turn before has heard something: it is likely to be there for the next one.
        found = await ask() if had_to_wait else None
        while found is None:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            found = await ask()
        return found


def _under_way(request_id: str) -> MeshError:
    return MeshError(
        grpc.StatusCode.UNAVAILABLE,
        errors_pb2.ERROR_REASON_REQUEST_UNDER_WAY,
        f'the request "{request_id}" is still being carried out; call again under the same id',
        metadata={"request_id": request_id},
        retry_after=_CALL_AGAIN_SECONDS,
    )
