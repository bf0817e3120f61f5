"""The keys that an issuer publishes, kept so that calls hardly ever wait for the issuer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from meshkit.errors import MeshError
from meshkit.tasks import stop

from agentmesh_gateway.identity.oidc.fetching import FetchError, fetch_json
from agentmesh_gateway.identity.oidc.issuer import ALGORITHMS, Issuer

logger = logging.getLogger(__name__)

_MOST_KEYS = 100
_SMALLEST_RSA_BITS = 2048
_DISCOVERY = "/.well-known/openid-configuration"

Fetch = Callable[[str, float], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """One public key; `algorithm` is the only one that it is for, if the issuer says so."""

    kid: str
    kind: str
    curve: str
    algorithm: str
    key: Any

    def fits(self, algorithm: str) -> bool:
        """Whether it may verify signatures of `algorithm`."""
        kind, curve = ALGORITHMS[algorithm]
        return (
            self.kind == kind
            and (not curve or self.curve == curve)
            and self.algorithm in ("", algorithm)
        )


class Jwks:
    """The keys of one issuer.

    They are fetched when first needed and again after `jwks_cache_seconds`, then beside the calls
    that go on with the old ones, for up to `jwks_grace_seconds` if the issuer cannot be reached. A
    key id that is unknown has them fetched at once, but no sooner than `jwks_refetch_seconds` after
    the last time: made-up ids cost the issuer nothing. There is never more than one fetch at once.
    """

    def __init__(
        self,
        issuer: Issuer,
        fetch: Fetch = fetch_json,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: Sequence[PublishedKey] = ()
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> PublishedKey | None:
        """The key of this id, or the only one that fits if a token names none; None if the issuer
        publishes no such key. Raises MeshError UNAVAILABLE if no keys can be had."""
        if self._fetched_at is None or self._age() > self._longest:
            await self._refresh()
        elif self._age() > self._issuer.jwks_cache_seconds:
            self._start()
        if self._fetched_at is None or self._age() > self._longest:
            raise MeshError.unavailable(f"issuer {self._issuer.url}")
        found = self._find(kid, algorithm)
        if found is None and await self._refresh():
            found = self._find(kid, algorithm)
        return found

    async def close(self) -> None:
        """Ends a fetch under way."""
        await stop(self._fetching)

    @property
    def _longest(self) -> float:
        return self._issuer.jwks_cache_seconds + self._issuer.jwks_grace_seconds

    def _age(self) -> float:
        return self._clock() - (self._fetched_at or 0.0)

    def _find(self, kid: str | None, algorithm: str) -> PublishedKey | None:
        fitting = [key for key in self._keys if kid in (None, key.kid) and key.fits(algorithm)]
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None

    async def _refresh(self) -> bool:
        """Waits for a fetch, if one is under way or may start; whether there was one."""
        task = self._start()
        if task is None:
            return False
        # Others wait for it too: a call that leaves must not cancel it.
        await asyncio.shield(task)
        return True

    def _start(self) -> asyncio.Task[None] | None:
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now = self._clock()
        if self._tried_at is not None and now - self._tried_at < self._issuer.jwks_refetch_seconds:
            return None
        self._tried_at = now
        self._fetching = asyncio.get_running_loop().create_task(self._load(), name="jwks")
        return self._fetching

    async def _load(self) -> None:
        try:
            keys = published_keys(await self._document())
            if not keys:
                raise FetchError(f"{self._issuer.url} publishes no key that can be used")
        except FetchError as error:
            logger.warning("the keys of an issuer could not be fetched: %s", error)
            return
        self._keys = keys
        self._fetched_at = self._clock()

    async def _document(self) -> dict[str, Any]:
        issuer = self._issuer
        url = issuer.jwks_url
        if not url:
            where = issuer.url.rstrip("/") + _DISCOVERY
            found = await self._fetch(where, issuer.fetch_seconds)
            if found.get("issuer") != issuer.url:
                raise FetchError(f"{where} is about another issuer than {issuer.url}")
            url = str(found.get("jwks_uri", ""))
        return await self._fetch(url, issuer.fetch_seconds)


def published_keys(document: Mapping[str, Any]) -> Sequence[PublishedKey]:
    """The keys of a JWK set that verify signatures; others are left out."""
    raw = document.get("keys")
    if not isinstance(raw, list):
        raise FetchError("the document has no list of keys")
    return [key for item in raw[:_MOST_KEYS] if (key := _published(item)) is not None]


def _published(raw: Any) -> PublishedKey | None:
    if not isinstance(raw, dict) or raw.get("use", "sig") != "sig":
        return None
    operations = raw.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kind, curve, algorithm = (str(raw.get(name, "")) for name in ("kty", "crv", "alg"))
    wanted = next(
        (name for name, of in ALGORITHMS.items() if of[0] == kind and of[1] in ("", curve)), None
    )
    if wanted is None or algorithm not in ("", *ALGORITHMS):
        return None
    try:
        key = jwt.PyJWK(
            {name: value for name, value in raw.items() if name != "d"}, algorithm or wanted
        ).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if kind == "RSA" and key.key_size < _SMALLEST_RSA_BITS:
        return None
    return PublishedKey(str(raw.get("kid", "")), kind, curve, algorithm, key)
