"""API keys, as the store keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from agentmesh.conversation_store.v1.identity_service_pb2 import AuthenticateKeyRequest
from meshkit.context import SYSTEM, Principal, principal_scope
from meshkit.errors import from_rpc_error

from agentmesh_gateway.identity.keys import KeyCheck

if TYPE_CHECKING:
    # Only the stubs' type information has these names.
    from agentmesh.conversation_store.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub

_TIMEOUT_SECONDS = 5.0
_LONGEST_SECRET = 256


class StoreKeys:
    """Checks secrets with the store's IdentityService."""

    def __init__(self, store: IdentityServiceAsyncStub) -> None:
        self._store = store

    async def check(self, secret: str) -> KeyCheck:
        """See `KeyDirectory.check`."""
        if len(secret) > _LONGEST_SECRET:
            return KeyCheck(None, keys_exist=True)
        try:
            with principal_scope(SYSTEM):
                answer = await self._store.AuthenticateKey(
                    AuthenticateKeyRequest(secret=secret), timeout=_TIMEOUT_SECONDS
                )
        except grpc.aio.AioRpcError as error:
            # Without a secret it can only be this service that the store does not accept.
            if secret and error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return KeyCheck(None, keys_exist=True)
            raise from_rpc_error(error) from error
        if not answer.HasField("key"):
            return KeyCheck(None, keys_exist=answer.keys_exist)
        key = answer.key
        principal = Principal(
            subject=key.key_id,
            tenant=key.tenant,
            role=key.role,
            scopes=frozenset(key.scopes) or None,
        )
        return KeyCheck(principal, keys_exist=True)
