"""IdentityService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation_store.v1 import identity_service_pb2 as pb
from agentmesh.conversation_store.v1 import identity_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import Principal, current_principal
from meshkit.errors import MeshError
from meshkit.roles import Role

from agentmesh_conversation_store.codec import tokens, values
from agentmesh_conversation_store.domain.keys import ApiKey, Grantor
from agentmesh_conversation_store.domain.model import SECOND
from agentmesh_conversation_store.identity import ApiKeys, NewKey, random_seed
from agentmesh_conversation_store.storage.interface import (
    Storage,
)
from agentmesh_conversation_store.storage.requests import Request

from .rejections import answers_rejections
from .repeatable import Repeatable, request_record

FULL_NAME = "agentmesh.conversation_store.v1.IdentityService"
_KEYS_A_PAGE = 100
_OVERLAP = 24 * 3600 * SECOND  # as the contract says


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
        caller = current_principal()
        ttl = values.micros(request.ttl) if request.HasField("ttl") else None
        if ttl is not None and ttl <= 0:
            raise MeshError.invalid("ttl", "must be longer than nothing")
        wanted = NewKey(
            caller.tenant, Role(request.role), request.name, ttl, tuple(sorted(request.scopes))
        )
        seed = request.request_id or random_seed()
        record = _record(caller.tenant, "CreateKey", request)
        made = _told(await self._keys.create(wanted, _grantor(caller), seed, record))
        return pb.CreateKeyResponse(key=made, secret=self._secret(made, seed))

    @answers_rejections
    async def RotateKey(
        self, request: pb.RotateKeyRequest, _: ServicerContext
    ) -> pb.RotateKeyResponse:
        caller = current_principal()
        overlap = values.micros(request.overlap) if request.HasField("overlap") else _OVERLAP
        seed = request.request_id or random_seed()
        record = _record(caller.tenant, "RotateKey", request)
        rotated = _told(
            await self._keys.rotate(
                caller.tenant, request.key_id, overlap, _grantor(caller), seed, record
            )
        )
        return pb.RotateKeyResponse(key=rotated, secret=self._secret(rotated, seed))

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
        tenant = current_principal().tenant
        record = _record(tenant, "RevokeKey", request)
        revoked = await self._storage.revoke_key(tenant, request.key_id, record)
        return pb.RevokeKeyResponse(key=_told(revoked))

    def _secret(self, key: pb.ApiKey, seed: str) -> str:
        issued_at = key.rotated_at if key.HasField("rotated_at") else key.created_at
        return self._keys.secret(key.tenant, key.key_id, values.instant(issued_at), seed)


def _grantor(caller: Principal) -> Grantor:
    return Grantor(caller.subject, caller.role, caller.scopes)


def _record(tenant: str, method: str, request: Repeatable) -> Request[ApiKey] | None:
    if not request.request_id:
        return None
    return request_record(tenant, f"{FULL_NAME}/{method}", request, _key)


def _told(made: ApiKey | bytes) -> pb.ApiKey:
    return pb.ApiKey.FromString(made) if isinstance(made, bytes) else _key(made)


def _key(key: ApiKey) -> pb.ApiKey:
    return pb.ApiKey(
        key_id=key.key_id,
        tenant=key.tenant,
        role=options_pb2.Role.ValueType(key.role),
        name=key.name,
        created_at=values.timestamp(key.created_at),
        expires_at=values.optional_timestamp(key.expires_at),
        revoked_at=values.optional_timestamp(key.revoked_at),
        scopes=key.scopes,
        created_by=key.created_by,
        last_used_at=values.optional_timestamp(key.last_used_at),
        rotated_at=values.optional_timestamp(key.rotated_at),
        previous_secret_expires_at=values.optional_timestamp(key.previous_expires_at),
    )
