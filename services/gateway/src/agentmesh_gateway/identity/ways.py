"""Puts the ways to say who one is together, as the settings want them."""

from __future__ import annotations

from agentmesh_gateway.identity.authenticator import Authenticator, OtherWays
from agentmesh_gateway.identity.keys import CheckedKeys, KeyDirectory
from agentmesh_gateway.identity.oidc.tokens import Tokens
from agentmesh_gateway.identity.proxies import ProxyHeaders
from agentmesh_gateway.identity.settings import trusted_peers
from agentmesh_gateway.identity.spiffe import SpiffeIds
from agentmesh_gateway.limits.credential_guard import CredentialGuard
from agentmesh_gateway.settings import GatewaySettings


def authenticator_of(
    settings: GatewaySettings, directory: KeyDirectory, guard: CredentialGuard | None = None
) -> Authenticator:
    """The authenticator of a gateway; close it when the gateway ends."""
    ids = SpiffeIds([entry.domain() for entry in settings.spiffe_ids])
    tokens = proxies = None
    if settings.oidc:
        issuers = [entry.domain() for entry in settings.oidc]
        tokens = Tokens(issuers, settings.key_cache_seconds)
    if settings.trusted_peers:
        proxies = ProxyHeaders(
            trusted_peers(settings.trusted_peers),
            certificate="certificate" in settings.trusted_headers,
            identity="identity" in settings.trusted_headers,
            ids=ids,
        )
    return Authenticator(
        CheckedKeys(directory, settings.key_cache_seconds),
        allow_anonymous=settings.allow_anonymous,
        loopback_only=settings.loopback_only,
        others=OtherWays(tokens, ids if settings.spiffe_ids else None, proxies),
        guard=guard,
    )
