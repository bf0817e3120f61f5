"""What is expected of one issuer's tokens, and what they mean here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshkit.roles import Role

ALGORITHMS = {
    "RS256": ("RSA", ""),
    "RS384": ("RSA", ""),
    "RS512": ("RSA", ""),
    "PS256": ("RSA", ""),
    "PS384": ("RSA", ""),
    "PS512": ("RSA", ""),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Algorithms that can be allowed, all of them asymmetric, with the type and curve of their keys."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Where a token says what: names of claims, with dots for nested ones."""

    subject: str = "sub"
    tenant: str = ""
    role: str = "roles"
    scopes: str = ""


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer. `tenant` is that of all its tokens, else `claims.tenant` says it, and then it
    must be one of `tenants` if there are any. Without `jwks_url` the issuer's discovery document
    names it."""

    url: str
    audiences: tuple[str, ...]
    jwks_url: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    clock_skew_seconds: float = 60
    claims: Claims = field(default_factory=Claims)
    tenant: str = ""
    tenants: frozenset[str] = frozenset()
    roles: Mapping[str, Role] = field(default_factory=dict)
    default_role: Role | None = None
    scope_prefix: str = ""
    subject_prefix: str = ""
    jwks_cache_seconds: float = 300
    jwks_refetch_seconds: float = 5
    jwks_grace_seconds: float = 3600
    fetch_seconds: float = 5
