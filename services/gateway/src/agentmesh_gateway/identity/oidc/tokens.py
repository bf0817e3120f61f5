"""Checks tokens and reads principals out of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jwt
from meshkit.context import Principal
from meshkit.errors import MeshError

from agentmesh_gateway.identity.grants import (
    highest_role,
    scopes_among,
    subject_named,
    tenant_named,
)
from agentmesh_gateway.identity.oidc.fetching import fetch_json
from agentmesh_gateway.identity.oidc.issuer import ALGORITHMS, Issuer
from agentmesh_gateway.identity.oidc.jwks import Fetch, Jwks

_LONGEST_TOKEN = 16 * 1024
_LONGEST_KID = 256
_MOST_ENTRIES = 10_000
_TYPES = ("", "jwt", "at+jwt", "application/at+jwt", "application/jwt")
# With these a token brings its own key, or words that must be understood; none of them is.
_REFUSED_HEADERS = ("jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc")


def looks_like_token(secret: str) -> bool:
    """Whether a secret is a JWT rather than an API key."""
    return secret.count(".") == 2 and not secret.startswith("amk_")


class Tokens:
    """Tokens of several issuers. A token that was checked is believed for `cache_seconds`, and for
    no longer than it lives."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        cache_seconds: float,
        *,
        fetch: Fetch = fetch_json,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuers = {issuer.url: (issuer, Jwks(issuer, fetch, clock)) for issuer in issuers}
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._checked: dict[bytes, tuple[Principal, float, float]] = {}

    async def close(self) -> None:
        """Ends what is under way."""
        for _, jwks in self._issuers.values():
            await jwks.close()

    async def principal_of(self, token: str) -> Principal:
        """Whom a token is for. Raises MeshError UNAUTHENTICATED with what is wrong with it, and
        UNAVAILABLE if the keys of its issuer cannot be had."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._checked.get(digest)
        if known is not None and self._clock() < known[1] and time.time() < known[2]:
            return known[0]
        issuer, jwks, algorithm, kid = self._look_at(token)
        key = await jwks.key(kid, algorithm)
        if key is None:
            raise MeshError.credentials_invalid(
                "the token is signed by a key that its issuer does not publish"
            )
        claims = _verified(token, key.key, algorithm, issuer)
        principal = _principal(claims, issuer)
        self._remember(digest, principal, claims["exp"] + issuer.clock_skew_seconds)
        return principal

    def _look_at(self, token: str) -> tuple[Issuer, Jwks, str, str | None]:
        """Whose keys to check the token with; nothing that it says is believed yet."""
        if len(token) > _LONGEST_TOKEN:
            raise MeshError.credentials_invalid(f"the token is longer than {_LONGEST_TOKEN} bytes")
        try:
            unchecked = jwt.decode_complete(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise MeshError.credentials_invalid("the token is no JWT") from None
        header, payload = unchecked["header"], unchecked["payload"]
        named = payload.get("iss")
        if not isinstance(named, str) or named not in self._issuers:
            raise MeshError.credentials_invalid("the token's issuer is not one of AGENTMESH_OIDC")
        issuer, jwks = self._issuers[named]
        algorithm = header.get("alg")
        if algorithm not in issuer.algorithms or algorithm not in ALGORITHMS:
            raise MeshError.credentials_invalid(
                f"the token's algorithm must be one of {', '.join(issuer.algorithms)}"
            )
        refused = [name for name in _REFUSED_HEADERS if name in header]
        if refused:
            raise MeshError.credentials_invalid(f"the token's header must not have {refused[0]}")
        if str(header.get("typ", "")).lower() not in _TYPES:
            raise MeshError.credentials_invalid("the token's type (typ) must be JWT or at+jwt")
        kid = header.get("kid")
        if kid is not None and not (isinstance(kid, str) and len(kid) <= _LONGEST_KID):
            raise MeshError.credentials_invalid("the token's key id (kid) is no name of a key")
        return issuer, jwks, algorithm, kid

    def _remember(self, digest: bytes, principal: Principal, ends_at: float) -> None:
        while len(self._checked) >= _MOST_ENTRIES:
            del self._checked[next(iter(self._checked))]
        self._checked.pop(digest, None)
        self._checked[digest] = (principal, self._clock() + self._cache_seconds, ends_at)


def _verified(token: str, key: Any, algorithm: str, issuer: Issuer) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=list(issuer.audiences),
            issuer=issuer.url,
            leeway=issuer.clock_skew_seconds,
            options={"require": ["exp", "aud", "iss"]},
        )
    except jwt.ExpiredSignatureError:
        raise _expired(token) from None
    except jwt.InvalidAudienceError:
        raise MeshError.credentials_invalid("the token is for another audience") from None
    except jwt.MissingRequiredClaimError as error:
        raise MeshError.credentials_invalid(f"the token lacks the claim {error.claim}") from None
    except jwt.ImmatureSignatureError:
        raise MeshError.credentials_invalid("the token is not valid yet (nbf, iat)") from None
    except jwt.InvalidSignatureError:
        raise MeshError.credentials_invalid("the token's signature is wrong") from None
    except (jwt.PyJWTError, ValueError, TypeError):
        raise MeshError.credentials_invalid("the token is not valid") from None


def _expired(token: str) -> MeshError:
    # Only the time was wrong with it, so that what it says was signed.
    claims = jwt.decode(token, options={"verify_signature": False})
    try:
        ended = datetime.fromtimestamp(int(claims["exp"]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        ended = ""
    return MeshError.credentials_expired(
        f"the token expired at {ended}: get a new one; a stream goes on with that and its last "
        "resume_token",
        ended,
    )


def _principal(claims: Mapping[str, Any], issuer: Issuer) -> Principal:
    names = issuer.claims
    tenant = issuer.tenant or tenant_named(
        _claim(claims, names.tenant), f"the token's claim {names.tenant}"
    )
    if issuer.tenants and tenant not in issuer.tenants:
        raise MeshError.credentials_invalid("the token's issuer may not speak for its tenant")
    role = highest_role(_words(_claim(claims, names.role)), issuer.roles) or issuer.default_role
    scopes = None
    if names.scopes:
        scopes = scopes_among(_words(_claim(claims, names.scopes)), issuer.scope_prefix)
    return Principal(
        subject=subject_named(
            _claim(claims, names.subject),
            f"the token's claim {names.subject}",
            issuer.subject_prefix,
        ),
        tenant=tenant,
        role=role or 0,
        scopes=scopes,
    )


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """By its whole name, which may have dots (`https://…`), else step by step."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def _words(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list):
        return [item for item in value if isinstance(item, str)]
    return ()
