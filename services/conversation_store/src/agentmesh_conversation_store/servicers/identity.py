"""IdentityService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation_store.v1 import identity_service_pb2 as pb
from agentmesh.conversation_store.v1 import identity_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import current_principal
from meshkit.errors import MeshError
from meshkit.ids import new_id

from agentmesh_conversation_store.codec import tokens, values
from agentmesh_conversation_store.domain.model import ApiKey, Role
from agentmesh_conversation_store.domain.rejections import not_found
from agentmesh_conversation_store.identity import ApiKeys
from agentmesh_conversation_store.storage.interface import (
    Storage,
)
from agentmesh_conversation_store.storage.requests import Request

from .rejections import answers_rejections
from .repeatable import request_record

FULL_NAME = "agentmesh.conversation_store.v1.IdentityService"
_KEYS_A_PAGE = 100


class IdentityServicer(pb_grpc.IdentityServiceServicer):
    """API keys."""

    def __init__(self, storage: Storage, keys: ApiKeys) -> None:
        self._storage = storage
        self._keys = keys

    @answers_rejections
    async def AuthenticateKey(
        self, request: pb.AuthenticateKeyRequest, _: ServicerContext
    ) -> pb.AuthenticateKeyResponse:
        if not request.secret:
            return pb.AuthenticateKeyResponse(keys_exist=await self._storage.keys_exist())
        key = await self._keys.authenticate(request.secret)
        return pb.AuthenticateKeyResponse(key=_key(key), keys_exist=True)

    @answers_rejections
    async def CreateKey(
        self, request: pb.CreateKeyRequest, _: ServicerContext
    ) -> pb.CreateKeyResponse:
        tenant = current_principal().tenant
        ttl = values.micros(request.ttl) if request.HasField("ttl") else None
        if ttl is not None and ttl <= 0:
            raise MeshError.invalid("ttl", "must be longer than nothing")
        record: Request[ApiKey] | None = None
        secret = self._keys.new_secret()
        if request.request_id:
            secret = self._keys.secret_of_request(tenant, request.request_id)
            method = f"{FULL_NAME}/CreateKey"
            record = request_record(tenant, method, request, _key)
        role = Role(request.role)
        made = await self._keys.create(
            tenant, new_id("key"), role, request.name, ttl, secret, record
        )
        key = pb.ApiKey.FromString(made) if isinstance(made, bytes) else _key(made)
        return pb.CreateKeyResponse(key=key, secret=secret)

    @answers_rejections
    async def ListKeys(
        self, request: pb.ListKeysRequest, _: ServicerContext
    ) -> pb.ListKeysResponse:
        size = request.page_size or _KEYS_A_PAGE
        before = None
        if request.page_token:
            created_at, key_id = tokens.page_position(request.page_token, "keys", int, str)
            before = (created_at, key_id)
        found = await self._storage.keys(current_principal().tenant, before, size + 1)
        page = found[:size]
        token = ""
        if len(found) > size:
            token = tokens.page_token("keys", page[-1].created_at, page[-1].key_id)
        return pb.ListKeysResponse(keys=[_key(key) for key in page], next_page_token=token)

    @answers_rejections
    async def RevokeKey(
        self, request: pb.RevokeKeyRequest, _: ServicerContext
    ) -> pb.RevokeKeyResponse:
        key = await self._storage.revoke_key(current_principal().tenant, request.key_id)
        if key is None:
            raise not_found("key", request.key_id)
        return pb.RevokeKeyResponse(key=_key(key))


def _key(key: ApiKey) -> pb.ApiKey:
    return pb.ApiKey(
        key_id=key.key_id,
        tenant=key.tenant,
        role=options_pb2.Role.ValueType(key.role),
        name=key.name,
        created_at=values.timestamp(key.created_at),
        expires_at=values.optional_timestamp(key.expires_at),
        revoked_at=values.optional_timestamp(key.revoked_at),
    )
