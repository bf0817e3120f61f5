"""Tokens between services: who a call is for, and what run a worker may write to.

Both are JWTs (HS256) under keys derived from AGENTMESH_INTERNAL_SECRET, one key per kind, so that
neither passes for the other; the `kid` of a token names the secret.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import jwt

from meshkit.context import (
    SYSTEM,
    Principal,
    RunCapability,
    capability_scope,
    current_capability,
    current_principal,
    find_capability,
    find_principal,
    principal_scope,
)
from meshkit.errors import MeshError
from meshkit.mesh_secrets import MeshKeys, MeshSecrets, derive
from meshkit.settings import ServiceSettings
from meshkit.transport import StartupError

__all__ = [
    "CAPABILITY_HEADER",
    "INTERNAL_HEADER",
    "SYSTEM",
    "InternalIdentity",
    "Principal",
    "RunCapability",
    "capability_scope",
    "current_capability",
    "current_principal",
    "find_capability",
    "find_principal",
    "principal_scope",
]

INTERNAL_HEADER = "x-agentmesh-internal"
CAPABILITY_HEADER = "x-agentmesh-run-capability"
TOKEN_SECONDS = 300
"""How long an internal token lives."""

_RENEW_SECONDS = 120  # a cached token with less than this left is minted anew
_CLOCK_SKEW_SECONDS = 10
_CACHE_ENTRIES = 4096
_ALGORITHM = "HS256"
_AUDIENCE_INTERNAL = "agentmesh-internal"
_AUDIENCE_CAPABILITY = "agentmesh-run"

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class InternalIdentity:
    """Mints and verifies the tokens of one service."""

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        try:
            self._secrets = MeshSecrets(settings)
        except (OSError, ValueError) as error:
            raise StartupError(f"no secret from {settings.internal_secret_file}: {error}") from None
        self._version = self._secrets.version
        self.service = service
        self._derived: dict[str, list[bytes]] = {}
        self._minted: _Expiring[Principal, str] = _Expiring()
        self._principals: _Expiring[str, Principal] = _Expiring()
        self._capabilities: _Expiring[str, RunCapability] = _Expiring()

    def keys_for(self, purpose: str) -> list[bytes]:
        """32 bytes that whoever knows the mesh's secret can make, and nobody else; other ones for
        each purpose. The first key signs; all of them are accepted while secrets are replaced."""
        keys = self._keys()
        if purpose not in self._derived:
            self._derived[purpose] = [derive(key.secret, purpose) for key in keys]
        return self._derived[purpose]

    def _keys(self) -> Sequence[MeshKeys]:
        keys = self._secrets.keys()
        if self._secrets.version != self._version:
            # What was signed by a secret that is gone must not live on in a cache.
            self._version = self._secrets.version
            for cache in (self._minted, self._principals, self._capabilities, self._derived):
                cache.clear()
        return keys

    def mint(self, principal: Principal) -> str:
        """A token with which this service calls others for `principal`; cached until it ages."""
        keys = self._keys()
        cached = self._minted.get(principal)
        if cached is not None:
            return cached
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.service,
            "aud": _AUDIENCE_INTERNAL,
            "sub": principal.subject,
            "tenant": principal.tenant,
            "role": principal.role,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
        }
        if principal.scopes is not None:
            claims["scopes"] = sorted(principal.scopes)
        token = _encode(claims, keys[0].internal, keys[0].kid)
        self._minted.put(principal, token, now + TOKEN_SECONDS - _RENEW_SECONDS)
        return token

    def verify(self, token: str) -> Principal:
        """Whom `token` is for. Raises MeshError UNAUTHENTICATED."""
        keys = self._keys()
        cached = self._principals.get(token)
        if cached is not None:
            return cached
        claims = _decode(
            token, {key.kid: key.internal for key in keys}, _AUDIENCE_INTERNAL, "internal token"
        )
        try:
            principal = Principal(
                subject=str(claims["sub"]),
                tenant=str(claims["tenant"]),
                role=int(claims["role"]),
                service=str(claims["iss"]),
                scopes=frozenset(claims["scopes"]) if "scopes" in claims else None,
            )
        except (KeyError, ValueError, TypeError):
            raise MeshError.credentials_invalid("the internal token lacks claims") from None
        self._principals.put(token, principal, int(claims["exp"]))
        return principal

    def mint_capability(
        self,
        *,
        tenant: str,
        conversation_id: str,
        run_id: str,
        fence: int,
        lifetime_seconds: float = 3600,
    ) -> str:
        """The signed right to work on a run under `fence`; a higher fence ends it early."""
        claims = {
            "iss": self.service,
            "aud": _AUDIENCE_CAPABILITY,
            "tenant": tenant,
            "conversation": conversation_id,
            "run": run_id,
            "fence": fence,
            "exp": int(time.time() + lifetime_seconds),
        }
        keys = self._keys()[0]
        return _encode(claims, keys.capability, keys.kid)

    def verify_capability(self, token: str) -> RunCapability:
        """What `token` allows. Raises MeshError UNAUTHENTICATED."""
        keys = self._keys()
        cached = self._capabilities.get(token)
        if cached is not None:
            return cached
        claims = _decode(
            token, {key.kid: key.capability for key in keys}, _AUDIENCE_CAPABILITY, "run capability"
        )
        try:
            capability = RunCapability(
                tenant=str(claims["tenant"]),
                conversation_id=str(claims["conversation"]),
                run_id=str(claims["run"]),
                fence=int(claims["fence"]),
                token=token,
            )
        except (KeyError, ValueError, TypeError):
            raise MeshError.credentials_invalid("the run capability lacks claims") from None
        self._capabilities.put(token, capability, int(claims["exp"]))
        return capability


class _Expiring(Generic[_Key, _Value]):
    """A bounded map whose entries end; when full, the oldest entry goes."""

    def __init__(self, limit: int = _CACHE_ENTRIES) -> None:
        self._limit = limit
        self._entries: dict[_Key, tuple[_Value, float]] = {}

    def get(self, key: _Key) -> _Value | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if time.time() < until:
            return value
        del self._entries[key]
        return None

    def clear(self) -> None:
        self._entries.clear()

    def put(self, key: _Key, value: _Value, until: float) -> None:
        while len(self._entries) >= self._limit:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (value, until)


def _encode(claims: dict[str, Any], key: bytes, kid: str) -> str:
    return jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"kid": kid})


def _decode(token: str, keys: Mapping[str, bytes], audience: str, what: str) -> dict[str, Any]:
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        # A release before this one names no secret, and knows one only.
        key = next(iter(keys.values())) if kid is None else keys.get(kid)
        if key is None:
            raise jwt.InvalidKeyError
        return jwt.decode(
            token,
            key,
            algorithms=[_ALGORITHM],
            audience=audience,
            leeway=_CLOCK_SKEW_SECONDS,
            options={"require": ["exp", "iss"]},
        )
    except jwt.ExpiredSignatureError:
        raise MeshError.credentials_invalid(f"the {what} has expired") from None
    except jwt.PyJWTError:
        raise MeshError.credentials_invalid(
            f"the {what} is not valid; do the services share one AGENTMESH_INTERNAL_SECRET?"
        ) from None


_default: InternalIdentity | None = None
_active: ContextVar[InternalIdentity | None] = ContextVar("meshkit_identity", default=None)


def use_identity(identity: InternalIdentity) -> None:
    """Makes `identity` the one of this process, for calls made outside of any served call."""
    global _default
    _default = identity


def enter_call(identity: InternalIdentity) -> None:
    """Makes `identity` the one of the running task."""
    _active.set(identity)


def active_identity() -> InternalIdentity:
    """Of the call being served, else of this process."""
    identity = _active.get() or _default
    if identity is None:
        raise RuntimeError("no identity yet: make a ServiceHost or MeshChannels first")
    return identity
