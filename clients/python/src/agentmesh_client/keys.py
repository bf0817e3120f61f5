"""API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
from agentmesh.common.v1.options_pb2 import Role
from agentmesh.gateway.v1 import admin_service_pb2 as admin_pb2
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub

from agentmesh_client.models import ApiKey
from agentmesh_client.transport import Caller


class Keys:
    """`mesh.keys`: the tenant's API keys, for administrators."""

    def __init__(self, channel: grpc.aio.Channel, call: Caller) -> None:
        self._stub: Any = AdminServiceStub(channel)
        self._call = call

    async def create(
        self,
        role: str,
        *,
        name: str = "",
        ttl: timedelta | None = None,
        scopes: Sequence[str] = (),
    ) -> ApiKey:
        """Makes a key of a role such as "operator"; `secret` is shown only now.

        With `scopes`, such as "conversations:read", it does no more than they say. Neither role nor
        scopes can be wider than those of the key that asks.
        """
        request = admin_pb2.CreateKeyRequest(
            role=Role.Value(f"ROLE_{role.upper()}"),
            name=name,
            scopes=scopes,
            request_id=uuid4().hex,
        )
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        made = await self._call(self._stub.CreateKey, request)
        return ApiKey.of(made.key, made.secret)

    async def list(self) -> list[ApiKey]:
        """All keys of the tenant, newest first, revoked ones included."""
        request = admin_pb2.ListKeysRequest()
        keys: list[ApiKey] = []
        while True:
            page = await self._call(self._stub.ListKeys, request)
            keys.extend(ApiKey.of(raw) for raw in page.keys)
            if not page.next_page_token:
                return keys
            request.page_token = page.next_page_token

    async def rotate(self, key_id: str, *, overlap: timedelta | None = None) -> ApiKey:
        """Gives a key a new secret, which is shown only now. The old one stays good for `overlap`,
        24 hours if it is None, and not at all if it is 0."""
        request = admin_pb2.RotateKeyRequest(key_id=key_id, request_id=uuid4().hex)
        if overlap is not None:
            request.overlap.FromTimedelta(overlap)
        rotated = await self._call(self._stub.RotateKey, request)
        return ApiKey.of(rotated.key, rotated.secret)

    async def revoke(self, key_id: str) -> ApiKey:
        """Makes a key useless, everywhere within ten seconds."""
        request = admin_pb2.RevokeKeyRequest(key_id=key_id)
        return ApiKey.of((await self._call(self._stub.RevokeKey, request)).key)
