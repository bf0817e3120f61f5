"""What proxies of the mesh say of their callers, and which proxies are believed.

Off unless peers are named. From anybody else the same headers are somebody's attempt: they count
for nothing, and a call that shows nothing better is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshkit.context import Principal
from meshkit.errors import MeshError
from meshkit.roles import Role

from agentmesh_gateway.identity.credentials import (
    CERTIFICATE_HEADER,
    ROLE_HEADER,
    SCOPES_HEADER,
    SUBJECT_HEADER,
    TENANT_HEADER,
)
from agentmesh_gateway.identity.grants import scopes_among, subject_named, tenant_named
from agentmesh_gateway.identity.peer import Peer
from agentmesh_gateway.identity.spiffe import SpiffeIds, spiffe_id_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LONGEST = 16 * 1024
_PAIR = re.compile(r'\s*(?P<key>[A-Za-z]+)=(?P<value>"(?:[^"\\]|\\.)*"|[^;,"]*)(?P<end>[;,]|$)')


@dataclass(frozen=True, slots=True)
class TrustedPeers:
    """Proxies, by their networks or by the SPIFFE ids of their certificates."""

    networks: tuple[Network, ...] = ()
    spiffe_ids: frozenset[str] = frozenset()

    def __contains__(self, peer: Peer) -> bool:
        if len(peer.uris) == 1 and peer.uris[0] in self.spiffe_ids:
            return True
        address = peer.address
        return address is not None and any(
            address.version == network.version and address in network for network in self.networks
        )


class ProxyHeaders:
    """Turns the headers that are believed into principals."""

    def __init__(
        self, peers: TrustedPeers, *, certificate: bool, identity: bool, ids: SpiffeIds
    ) -> None:
        self._peers = peers
        self._certificate = certificate
        self._identity = identity
        self._ids = ids

    def principal_of(self, headers: Mapping[str, str], peer: Peer) -> Principal | None:
        """Whom these headers are about; None if none of them counts here. Raises MeshError
        UNAUTHENTICATED for headers of a peer that is not trusted, and for bad ones."""
        says_identity = self._identity and SUBJECT_HEADER in headers
        says_certificate = self._certificate and CERTIFICATE_HEADER in headers
        if not says_identity and not says_certificate:
            return None
        if peer not in self._peers:
            raise MeshError.credentials_invalid(
                "headers of a proxy came from a peer that is not in AGENTMESH_TRUSTED_PEERS"
            )
        if says_identity:
            return _named(headers)
        return self._ids.principal_of(spiffe_id_of(forwarded_uris(headers[CERTIFICATE_HEADER])))


def _named(headers: Mapping[str, str]) -> Principal:
    role = headers.get(ROLE_HEADER, "").strip()
    names = {item.name.lower(): item for item in Role}
    if role not in names:
        raise MeshError.credentials_invalid(f"{ROLE_HEADER} must be one of {', '.join(names)}")
    scopes = headers.get(SCOPES_HEADER)
    return Principal(
        subject=subject_named(headers[SUBJECT_HEADER].strip(), SUBJECT_HEADER),
        tenant=tenant_named(headers.get(TENANT_HEADER, "").strip(), TENANT_HEADER),
        role=names[role],
        scopes=None if scopes is None else scopes_among(scopes.replace(",", " ").split()),
    )


def forwarded_uris(header: str) -> Sequence[str]:
    """The URIs of the certificate that the nearest proxy was shown: of the last element, since each
    proxy appends its own. Raises MeshError UNAUTHENTICATED."""
    uris: list[str] = []
    position = 0
    while position < len(header):
        pair = _PAIR.match(header, position)
        if pair is None or len(header) > _LONGEST:
            raise MeshError.credentials_invalid(f"{CERTIFICATE_HEADER} is malformed")
        if pair["key"].lower() == "uri":
            uris.append(pair["value"].strip('"'))
        position = pair.end()
        if pair["end"] == "," and position < len(header):
            uris = []
    return uris
