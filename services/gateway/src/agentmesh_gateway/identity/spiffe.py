"""SPIFFE ids, and which principal each of them is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from meshkit.context import Principal
from meshkit.errors import MeshError
from meshkit.roles import Role

from agentmesh_gateway.identity.grants import tenant_named
from agentmesh_gateway.identity.peer import Peer

_ID = re.compile(r"spiffe://(?P<domain>[a-z0-9._-]{1,255})(?P<path>(/[A-Za-z0-9._-]+)+)")
_LONGEST = 2048
_TENANT = "{tenant}"


@dataclass(frozen=True, slots=True)
class SpiffeRule:
    """Which ids are whom. In `path` a segment `*` stands for any one, `**` at the end for any that
    are left, and `{tenant}` for one that is the tenant, unless `tenant` says it."""

    trust_domain: str
    path: str
    role: Role
    tenant: str = ""
    scopes: frozenset[str] | None = None

    def tenant_of(self, domain: str, segments: Sequence[str]) -> str | None:
        """The tenant of an id that this rule is for; None if it is for another."""
        pattern = self.path.strip("/").split("/")
        open_end = pattern[-1] == "**"
        if open_end:
            pattern = pattern[:-1]
        if domain != self.trust_domain or len(segments) < len(pattern) + open_end:
            return None
        if not open_end and len(segments) != len(pattern):
            return None
        tenant = self.tenant
        for wanted, segment in zip(pattern, segments, strict=False):
            if wanted == _TENANT:
                tenant = segment
            elif wanted not in ("*", segment):
                return None
        return tenant


def spiffe_id_of(uris: Sequence[str]) -> str:
    """The id among the names of a certificate. Raises MeshError UNAUTHENTICATED."""
    if len(uris) != 1:
        raise MeshError.credentials_invalid(
            f"a certificate that says who calls has one URI, a SPIFFE id; this one has {len(uris)}"
        )
    return uris[0]


class SpiffeIds:
    """Turns ids into principals by the first rule that fits."""

    def __init__(self, rules: Sequence[SpiffeRule]) -> None:
        self._rules = tuple(rules)

    def principal_of(self, uri: str) -> Principal:
        """Whom an id is. Raises MeshError UNAUTHENTICATED if nobody."""
        parsed = _ID.fullmatch(uri) if len(uri) <= _LONGEST else None
        segments = parsed["path"].strip("/").split("/") if parsed else []
        if parsed is None or {".", ".."} & set(segments):
            raise MeshError.credentials_invalid("the certificate's URI is no SPIFFE id")
        for rule in self._rules:
            tenant = rule.tenant_of(parsed["domain"], segments)
            if tenant is not None:
                return Principal(
                    subject=uri,
                    tenant=tenant_named(tenant, "the SPIFFE id"),
                    role=rule.role,
                    scopes=rule.scopes,
                )
        raise MeshError.credentials_invalid(f"nobody here is {uri[:256]}; see AGENTMESH_SPIFFE_IDS")

    def principal_of_peer(self, peer: Peer) -> Principal:
        """Whom the peer's own certificate is for. Raises MeshError UNAUTHENTICATED."""
        return self.principal_of(spiffe_id_of(peer.uris))
