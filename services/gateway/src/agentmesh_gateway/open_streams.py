"""Streams that have no end of their own, and what ends them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import grpc
from meshkit.errors import MeshError
from meshkit.ids import new_id

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

_CHECKS_AT_ONCE = 16


class OpenStreams:
    """Ends streams when the service drains, and when their caller is not accepted any more, which
    is found out every `recheck_seconds`."""

    def __init__(self, authenticator: Authenticator, recheck_seconds: float) -> None:
        self._authenticator = authenticator
        self._recheck_seconds = recheck_seconds
        self._open: dict[Caller, dict[int, End]] = {}
        self._numbers = 0
        self._draining = False
        self._guard: asyncio.Task[None] | None = None

    @contextmanager
    def watched(self, credentials: Credentials, end: End) -> Iterator[None]:
        """Calls `end` if that has to be while the block runs. Raises DRAINING in a drain."""
        if self._draining:
            raise MeshError.draining()
        own = (
            tuple(pair for pair in credentials if pair[0] in CREDENTIAL_HEADERS),
            current_peer(),
        )
        self._numbers += 1
        number = self._numbers
        self._open.setdefault(own, {})[number] = end
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
            # Streams with the same credentials share one check.
            due = iter(list(self._open))
            await asyncio.gather(*(self._check_each(due) for _ in range(_CHECKS_AT_ONCE)))

    async def _check_each(self, due: Iterator[Caller]) -> None:
        for caller in due:
            if caller in self._open:
                await self._check(caller)

    async def _check(self, caller: Caller) -> None:
        try:
            await self._authenticator.authenticate(*caller)
        except MeshError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                self._end(caller, error)
            else:
                logger.info("open streams' credentials could not be checked: %s", error)
        except Exception:
            # Nobody would check these streams any more.
            reference = new_id("err")
            logger.exception("checking open streams' credentials failed: %s", reference)
            self._end(caller, MeshError.internal(reference))

    def _end(self, caller: Caller, failure: MeshError) -> None:
        for end in list(self._open.get(caller, {}).values()):
            end(failure)
