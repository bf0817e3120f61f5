"""Turns a call's credentials into a principal."""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.context import Principal
from meshkit.errors import MeshError
from meshkit.roles import Role

from agentmesh_gateway.identity.credentials import (
    HOW_TO_SEND,
    Metadata,
    headers_of,
    secret_of,
    shown_in,
)
from agentmesh_gateway.identity.keys import CheckedKeys
from agentmesh_gateway.identity.oidc.tokens import Tokens, looks_like_token
from agentmesh_gateway.identity.peer import Peer, current_peer
from agentmesh_gateway.identity.proxies import ProxyHeaders
from agentmesh_gateway.identity.spiffe import SpiffeIds
from agentmesh_gateway.limits.credential_guard import CredentialGuard

DEFAULT_TENANT = "default"
_ANONYMOUS = Principal(subject="anonymous", tenant=DEFAULT_TENANT, role=Role.ADMIN)
_REMEDY_MISSING = (
    f"an API key is needed: {HOW_TO_SEND}; `agentmesh keys create` makes one where the store runs"
)
_REMEDY_INVALID = (
    "the API key is unknown, revoked or expired; `agentmesh keys list` shows those that are good"
)


@dataclass(frozen=True, slots=True)
class OtherWays:
    """How callers without an API key say who they are; None: not at all."""

    tokens: Tokens | None = None
    certificates: SpiffeIds | None = None
    proxies: ProxyHeaders | None = None

    def __bool__(self) -> bool:
        return any((self.tokens, self.certificates, self.proxies))


class Authenticator:
    """Knows callers by what they show, in this order: a key or token, the headers of a trusted
    proxy, their certificate. Who shows something that is not good is refused.
    """

    def __init__(
        self,
        keys: CheckedKeys,
        *,
        allow_anonymous: bool,
        loopback_only: bool,
        others: OtherWays = OtherWays(),
        guard: CredentialGuard | None = None,
    ) -> None:
        self._keys = keys
        self._others = others
        self._guard = guard
        self._allow_anonymous = allow_anonymous
        # Whoever configured another way than keys wants to know who calls.
        self._trusts_machine = loopback_only and not others

    async def authenticate(self, metadata: Metadata, peer: Peer | None = None) -> Principal:
        """Whom a call with this metadata acts for. `peer` is that of the running call if it is
        None. Raises MeshError UNAUTHENTICATED, or RATE_LIMITED after too many attempts."""
        if self._guard is None:
            return await self.confirm(metadata, peer)
        secret = shown_in(metadata)
        if secret:
            return await self._guard.judged(secret, lambda: self._by_secret(secret))
        return await self._guard.judged("", lambda: self.confirm(metadata, peer))

    async def confirm(self, metadata: Metadata, peer: Peer | None) -> Principal:
        """As `authenticate`, of a call that was let in before: it is no attempt to count."""
        secret = secret_of(metadata)
        if secret:
            return await self._by_secret(secret)
        if self._others:
            principal = self._by_connection(metadata, peer or current_peer())
            if principal is not None:
                return principal
        if self._allow_anonymous:
            return _ANONYMOUS
        if self._trusts_machine and not (await self._keys.check("")).keys_exist:
            return _ANONYMOUS
        raise MeshError.credentials_missing(_REMEDY_MISSING)

    def trusts_this_machine(self, principal: Principal) -> bool:
        """Whether `principal` is anonymous only because no key exists and all callers are local."""
        return principal is _ANONYMOUS and not self._allow_anonymous

    def forget(self) -> None:
        """Forgets every answer about keys, because they were changed through this gateway."""
        self._keys.forget()

    async def close(self) -> None:
        """Ends what is under way."""
        if self._others.tokens is not None:
            await self._others.tokens.close()

    async def _by_secret(self, secret: str) -> Principal:
        if self._others.tokens is not None and looks_like_token(secret):
            return await self._others.tokens.principal_of(secret)
        principal = (await self._keys.check(secret)).principal
        if principal is None:
            raise MeshError.credentials_invalid(_REMEDY_INVALID)
        return principal

    def _by_connection(self, metadata: Metadata, peer: Peer) -> Principal | None:
        if self._others.proxies is not None:
            principal = self._others.proxies.principal_of(headers_of(metadata), peer)
            if principal is not None:
                return principal
        if self._others.certificates is not None and peer.has_certificate:
            return self._others.certificates.principal_of_peer(peer)
        return None
