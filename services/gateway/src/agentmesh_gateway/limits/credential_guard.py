"""Whoever wants to be known is judged so many times: guesses of credentials, and calls that show
none, are bounded for each address.

Credentials that were good a while ago go on working whatever else comes from their address: guests
behind one proxy or in one building are not locked out by each other.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from meshkit.caller_address import find_caller_address
from meshkit.errors import MeshError
from meshkit.sites import site_of

from agentmesh_gateway.limits.attempts import Attempts
from agentmesh_gateway.limits.buckets import LocalBuckets, Rate

_MOST_GOOD = 10_000
_MOST_ADDRESSES = 100_000
_BURST_SECONDS = 2
Judged = TypeVar("Judged")


class CredentialGuard:
    """Guesses are bounded to `guesses_per_minute` of an address, calls without credentials that are
    refused to `strangers_per_second`; 0 is no limit."""

    def __init__(self, guesses_per_minute: int, strangers_per_second: int) -> None:
        self._guesses = self._strangers = None
        if guesses_per_minute:
            self._guesses = Attempts(
                LocalBuckets(_MOST_ADDRESSES),
                Rate(guesses_per_minute / 60, guesses_per_minute),
                f"{guesses_per_minute} refused credentials a minute",
            )
        if strangers_per_second:
            burst = strangers_per_second * _BURST_SECONDS
            self._strangers = Attempts(
                LocalBuckets(_MOST_ADDRESSES),
                Rate(strangers_per_second, burst),
                f"{strangers_per_second} calls a second without credentials, {burst} at once",
            )
        self._good: OrderedDict[bytes, None] = OrderedDict()
        # What is kept of credentials is of no use outside of this process.
        self._salt = secrets.token_bytes(16)

    async def judged(self, shown: str, judge: Callable[[], Awaitable[Judged]]) -> Judged:
        """What `judge` says of a call that shows this secret; "" if it shows none. Raises MeshError
        RATE_LIMITED instead of asking it if the caller's address has used up its attempts."""
        attempts = self._guesses if shown else self._strangers
        if attempts is None:
            return await judge()
        if not shown:
            return await attempts.judged(_site(), judge)
        secret = self._digest(shown)
        if secret in self._good:
            return await self._known(secret, attempts, judge)
        principal = await attempts.judged(_site(), judge)
        self._remember(secret)
        return principal

    async def _known(
        self,
        secret: bytes,
        attempts: Attempts,
        judge: Callable[[], Awaitable[Judged]],
    ) -> Judged:
        try:
            return await judge()
        except MeshError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                self._good.pop(secret, None)
                attempts.failed(_site())
            raise

    def _remember(self, secret: bytes) -> None:
        self._good[secret] = None
        self._good.move_to_end(secret)
        if len(self._good) > _MOST_GOOD:
            self._good.popitem(last=False)

    def _digest(self, secret: str) -> bytes:
        return hashlib.blake2b(secret.encode(), key=self._salt, digest_size=16).digest()


def _site() -> str:
    """Where the running call comes from."""
    return site_of(find_caller_address())
