"""API keys, checked by a directory and believed for some seconds."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from meshkit.context import Principal

_MOST_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """What the store says about a secret."""

    principal: Principal | None
    """Whom the key speaks for; None if no secret was asked about or it is not good."""
    keys_exist: bool


class KeyDirectory(Protocol):
    """Where keys are kept."""

    async def check(self, secret: str) -> KeyCheck:
        """Checks a secret; "" asks only whether keys exist. Raises MeshError if it cannot."""


@dataclass(slots=True)
class _Entry:
    result: asyncio.Future[KeyCheck]
    until: float


class CheckedKeys:
    """A directory whose answers are believed for `cache_seconds`: a key that is revoked goes on
    working for no longer. Failures to reach the directory are not remembered."""

    def __init__(
        self,
        directory: KeyDirectory,
        cache_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._entries: dict[bytes, _Entry] = {}

    def forget(self) -> None:
        """Forgets every answer, because keys were changed through this gateway."""
        self._entries.clear()

    async def check(self, secret: str) -> KeyCheck:
        """See `KeyDirectory.check`."""
        # The secret itself is not kept in memory for longer than its call.
        digest = hashlib.blake2b(secret.encode(), digest_size=32).digest()
        entry = self._entries.get(digest)
        if entry is None or entry.until <= self._clock():
            entry = self._ask(digest, self._directory.check(secret))
        if entry.result.done() and not entry.result.cancelled():
            return entry.result.result()
        # Many calls may wait for one answer: none of them may cancel it for the others.
        return await asyncio.shield(entry.result)

    def _ask(self, digest: bytes, answer: Awaitable[KeyCheck]) -> _Entry:
        entry = _Entry(asyncio.ensure_future(answer), self._clock() + self._cache_seconds)
        self._entries[digest] = entry
        if len(self._entries) > _MOST_ENTRIES:
            del self._entries[next(iter(self._entries))]

        def forget_failure(result: asyncio.Future[KeyCheck]) -> None:
            failed = result.cancelled() or result.exception() is not None
            if failed and self._entries.get(digest) is entry:
                del self._entries[digest]

        entry.result.add_done_callback(forget_failure)
        return entry
