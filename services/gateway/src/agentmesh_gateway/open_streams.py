"""Streams that have no end of their own, and what ends them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import grpc
from meshkit.errors import MeshError
from meshkit.ids import new_id

from agentmesh_gateway.access import ReadAccess, Reading
from agentmesh_gateway.identity.authenticator import Authenticator
from agentmesh_gateway.identity.credentials import CREDENTIAL_HEADERS
from agentmesh_gateway.identity.peer import Peer, current_peer

logger = logging.getLogger(__name__)

Credentials: TypeAlias = "tuple[tuple[str, str | bytes], ...]"
"""A call's metadata that says who calls."""
Caller: TypeAlias = "tuple[Credentials, Peer]"
"""All by which a caller is known."""
End: TypeAlias = Callable[[MeshError], None]
"""Ends one stream with an error. Must not wait."""

Thing = TypeVar("Thing")

_CHECKS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Stream:
    """How to end it, and what it reads if that may be taken away by itself."""

    end: End
    reading: Reading | None


class OpenStreams:
    """Ends streams when the service drains, and when their caller is not accepted any more, or may
    not read any more what they read, which is found out every `recheck_seconds`."""

    def __init__(
        self, authenticator: Authenticator, access: ReadAccess, recheck_seconds: float
    ) -> None:
        self._authenticator = authenticator
        self._access = access
        self._recheck_seconds = recheck_seconds
        self._open: dict[Caller, dict[int, _Stream]] = {}
        self._numbers = 0
        self._draining = False
        self._guard: asyncio.Task[None] | None = None

    @contextmanager
    def watched(
        self, credentials: Credentials, end: End, reading: Reading | None = None
    ) -> Iterator[None]:
        """Calls `end` if that has to be while the block runs: also if `reading` is not allowed any
        more. Raises DRAINING in a drain."""
        if self._draining:
            raise MeshError.draining()
        own = (
            tuple(pair for pair in credentials if pair[0] in CREDENTIAL_HEADERS),
            current_peer(),
        )
        self._numbers += 1
        number = self._numbers
        self._open.setdefault(own, {})[number] = _Stream(end, reading)
        if self._guard is None:
            # In a context of its own, so that checks are no part of a call's trace.
            self._guard = asyncio.create_task(
                self._check_for_ever(), name="open-streams", context=contextvars.Context()
            )
        try:
            yield
        finally:
            streams = self._open.get(own, {})
            streams.pop(number, None)
            if not streams:
                self._open.pop(own, None)
            if not self._open and self._guard is not None:
                self._guard.cancel()
                self._guard = None

    async def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, so that its reader goes elsewhere."""
        self._draining = True
        for caller in list(self._open):
            self._end(caller, MeshError.draining())

    async def _check_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._recheck_seconds)
            # Streams with the same credentials share one check, and so do those that read the same.
            await self._at_once(list(self._open), self._check)
            await self._at_once(list(self._readings()), self._check_reading)

    async def _at_once(
        self, things: Sequence[Thing], check: Callable[[Thing], Awaitable[None]]
    ) -> None:
        due = iter(things)

        async def check_each() -> None:
            for thing in due:
                await check(thing)

        await asyncio.gather(*(check_each() for _ in range(_CHECKS_AT_ONCE)))

    def _readings(self) -> set[Reading]:
        streams = (stream for streams in self._open.values() for stream in streams.values())
        return {stream.reading for stream in streams if stream.reading is not None}

    async def _check(self, caller: Caller) -> None:
        if caller not in self._open:
            return
        failure = await self._failure(
            self._authenticator.confirm(*caller), grpc.StatusCode.UNAUTHENTICATED
        )
        if failure is not None:
            self._end(caller, failure)

    async def _check_reading(self, reading: Reading) -> None:
        failure = await self._failure(self._access.check(reading), grpc.StatusCode.NOT_FOUND)
        if failure is None:
            return
        for streams in list(self._open.values()):
            for stream in list(streams.values()):
                if stream.reading == reading:
                    stream.end(failure)

    async def _failure(
        self, asking: Awaitable[object], refusal: grpc.StatusCode
    ) -> MeshError | None:
        """Why what is asked for is refused. What cannot be asked now goes on."""
        try:
            await asking
        except MeshError as error:
            if error.code is refusal:
                return error
            logger.info("what open streams are allowed could not be checked: %s", error)
        except Exception:
            # Nobody would check these streams any more.
            reference = new_id("err")
            logger.exception("checking what open streams are allowed failed: %s", reference)
            return MeshError.internal(reference)
        return None

    def _end(self, caller: Caller, failure: MeshError) -> None:
        for stream in list(self._open.get(caller, {}).values()):
            stream.end(failure)
