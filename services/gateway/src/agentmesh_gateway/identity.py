"""Who a caller is: API keys, checked by the store and remembered for some seconds."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from meshkit.context import Principal
from meshkit.errors import MeshError

ADMIN = 3
DEFAULT_TENANT = "default"
_ANONYMOUS = Principal(subject="anonymous", tenant=DEFAULT_TENANT, role=ADMIN)
_MOST_ENTRIES = 10_000
_HOW = "send it as `authorization: Bearer amk_…` or `x-api-key: amk_…`"
_REMEDY_MISSING = (
    f"an API key is needed: {_HOW}; `agentmesh keys create` makes one where the store runs"
)
_REMEDY_INVALID = (
    "the API key is unknown, revoked or expired; `agentmesh keys list` shows those that are good"
)
_REMEDY_SCHEME = f"the authorization header is no bearer token; {_HOW}"

Metadata = Iterable[tuple[str, str | bytes]]


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


class Authenticator:
    """Turns a call's credentials into a principal.

    A key that is revoked goes on working for at most `cache_seconds`. Failures to reach the
    directory are not remembered.
    """

    def __init__(
        self,
        directory: KeyDirectory,
        *,
        allow_anonymous: bool,
        loopback_only: bool,
        cache_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._allow_anonymous = allow_anonymous
        self._loopback_only = loopback_only
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._entries: dict[bytes, _Entry] = {}

    async def authenticate(self, metadata: Metadata) -> Principal:
        """Whom a call with this metadata acts for. Raises MeshError UNAUTHENTICATED."""
        secret = api_key(metadata)
        if secret:
            principal = (await self._check(secret)).principal
            if principal is None:
                raise MeshError.credentials_invalid(_REMEDY_INVALID)
            return principal
        if self._allow_anonymous:
            return _ANONYMOUS
        if self._loopback_only and not (await self._check("")).keys_exist:
            return _ANONYMOUS
        raise MeshError.credentials_missing(_REMEDY_MISSING)

    def trusts_this_machine(self, principal: Principal) -> bool:
        """Whether `principal` is anonymous only because no key exists and all callers are local."""
        return principal is _ANONYMOUS and not self._allow_anonymous

    def forget(self) -> None:
        """Forgets every answer, because keys were changed through this gateway."""
        self._entries.clear()

    async def _check(self, secret: str) -> KeyCheck:
        # The secret itself is not kept in memory for longer than its call.
        digest = hashlib.sha256(secret.encode()).digest()
        entry = self._entries.get(digest)
        if entry is None or entry.until <= self._clock():
            entry = self._ask(digest, self._directory.check(secret))
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


def api_key(metadata: Metadata) -> str:
    """The API key that a call carries; "" if it carries none."""
    for name, value in metadata:
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if name == "authorization":
            scheme, _, secret = text.strip().partition(" ")
            if scheme.lower() != "bearer" or not secret.strip():
                raise MeshError.credentials_invalid(_REMEDY_SCHEME)
            return secret.strip()
        if name == "x-api-key" and text.strip():
            return text.strip()
    return ""
