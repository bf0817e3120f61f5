"""The structured settings of identity: issuers, SPIFFE ids, trusted proxies."""

from __future__ import annotations

import ipaddress
import itertools
import re
from typing import Annotated, Literal, Self

from meshkit.policy import known_scopes
from meshkit.roles import Role
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from agentmesh_gateway.identity.grants import TENANT_PATTERN
from agentmesh_gateway.identity.oidc.fetching import check_url
from agentmesh_gateway.identity.oidc.issuer import ALGORITHMS, Claims, Issuer
from agentmesh_gateway.identity.proxies import TrustedPeers
from agentmesh_gateway.identity.spiffe import SpiffeRule

_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+")
_PATH = re.compile(r"(/([A-Za-z0-9._-]+|\*|\{tenant\}))+(/\*\*)?|/\*\*")


def _role(value: object) -> object:
    names = {role.name.lower(): role for role in Role}
    if isinstance(value, str) and value in names:
        return names[value]
    raise ValueError(f"must be one of {', '.join(names)}")


def _known_scope(value: str) -> str:
    if value not in known_scopes():
        raise ValueError(f"must be one of {', '.join(known_scopes())}")
    return value


RoleName = Annotated[Role, BeforeValidator(_role)]
Tenant = Annotated[str, Field(pattern=f"^{TENANT_PATTERN}$")]
Scope = Annotated[str, BeforeValidator(_known_scope)]
ClaimName = Annotated[str, Field(min_length=1, max_length=256)]
Header = Literal["certificate", "identity"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OidcIssuer(_Strict):
    """One entry of AGENTMESH_OIDC."""

    issuer: str = Field(min_length=1, max_length=2048)
    audience: str | tuple[str, ...]
    jwks_url: str = ""
    algorithms: tuple[str, ...] = Field(default=("RS256", "ES256"), min_length=1)
    clock_skew_seconds: float = Field(default=60, ge=0, le=600)
    subject_claim: ClaimName = "sub"
    subject_prefix: str = Field(default="", max_length=64, pattern=r"^[\x21-\x7e]*$")
    tenant: Tenant | None = None
    tenant_claim: ClaimName | None = None
    tenants: tuple[Tenant, ...] = ()
    role_claim: ClaimName = "roles"
    roles: dict[str, RoleName] = Field(default_factory=dict)
    default_role: RoleName | None = None
    scope_claim: ClaimName | None = None
    scope_prefix: str = Field(default="", max_length=256)
    jwks_cache_seconds: float = Field(default=300, ge=1, le=86_400)
    jwks_refetch_seconds: float = Field(default=5, ge=0.1, le=3600)
    jwks_grace_seconds: float = Field(default=3600, ge=0, le=7 * 86_400)
    fetch_seconds: float = Field(default=5, gt=0, le=60)

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _can_be_believed(cls, value: str) -> str:
        if value:
            check_url(value)
        return value

    @field_validator("audience")
    @classmethod
    def _some_audience(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        audiences = (value,) if isinstance(value, str) else value
        if not audiences or not all(audiences):
            raise ValueError("must name at least one audience: tokens for others are refused")
        return audiences

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for algorithm in value:
            if algorithm not in ALGORITHMS:
                raise ValueError(f"{algorithm} is not one of {', '.join(ALGORITHMS)}")
        return value

    @model_validator(mode="after")
    def _says_tenant_and_role(self) -> Self:
        if (self.tenant is None) == (self.tenant_claim is None):
            raise ValueError(f"{self.issuer}: set either tenant or tenant_claim")
        if not self.roles and self.default_role is None:
            raise ValueError(f"{self.issuer}: set roles, default_role or both")
        return self

    def domain(self) -> Issuer:
        """As identity knows it."""
        return Issuer(
            url=self.issuer,
            audiences=tuple(self.audience),
            jwks_url=self.jwks_url,
            algorithms=self.algorithms,
            clock_skew_seconds=self.clock_skew_seconds,
            claims=Claims(
                self.subject_claim, self.tenant_claim or "", self.role_claim, self.scope_claim or ""
            ),
            tenant=self.tenant or "",
            tenants=frozenset(self.tenants),
            roles=self.roles,
            default_role=self.default_role,
            scope_prefix=self.scope_prefix,
            subject_prefix=self.subject_prefix,
            jwks_cache_seconds=self.jwks_cache_seconds,
            jwks_refetch_seconds=self.jwks_refetch_seconds,
            jwks_grace_seconds=self.jwks_grace_seconds,
            fetch_seconds=self.fetch_seconds,
        )


class SpiffeId(_Strict):
    """One entry of AGENTMESH_SPIFFE_IDS."""

    trust_domain: str = Field(pattern=r"^[a-z0-9._-]{1,255}$")
    path: str = Field(max_length=2048)
    role: RoleName
    tenant: Tenant | None = None
    scopes: tuple[Scope, ...] = ()

    @field_validator("path")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        if not _PATH.fullmatch(value):
            raise ValueError("must be a path such as /ns/{tenant}/sa/*, or one with ** at its end")
        return value

    @model_validator(mode="after")
    def _says_the_tenant_once(self) -> Self:
        if self.path.count("{tenant}") + (self.tenant is not None) != 1:
            raise ValueError(f"{self.path}: set tenant, or name it once in the path as {{tenant}}")
        return self

    def domain(self) -> SpiffeRule:
        """As identity knows it."""
        scopes = frozenset(self.scopes) or None
        return SpiffeRule(self.trust_domain, self.path, self.role, self.tenant or "", scopes)


def check_issuers(issuers: tuple[OidcIssuer, ...]) -> None:
    """Raises ValueError if two issuers cannot be told apart, or their subjects."""
    if len({issuer.issuer for issuer in issuers}) < len(issuers):
        raise ValueError("AGENTMESH_OIDC names an issuer twice")
    for one, other in itertools.permutations(issuers, 2):
        if one.subject_prefix.startswith(other.subject_prefix):
            raise ValueError(
                "AGENTMESH_OIDC: several issuers need a subject_prefix each, none of which begins "
                "with another, or one could name the other's subjects"
            )


def trusted_peers(named: tuple[str, ...], setting: str = "AGENTMESH_TRUSTED_PEERS") -> TrustedPeers:
    """From networks and SPIFFE ids. Raises ValueError that begins with the name of `setting`."""
    ids = frozenset(name for name in named if _SPIFFE_ID.fullmatch(name))
    try:
        networks = tuple(ipaddress.ip_network(name) for name in named if name not in ids)
    except ValueError as error:
        raise ValueError(f"{setting}: {error}; name networks or SPIFFE ids") from None
    if any(network.prefixlen == 0 for network in networks):
        raise ValueError(f"{setting} must not be everybody")
    return TrustedPeers(networks, ids)
