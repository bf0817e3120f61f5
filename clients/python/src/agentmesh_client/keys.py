"""API keys."""

from __future__ import annotations

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

    async def create(self, role: str, *, name: str = "", ttl: timedelta | None = None) -> ApiKey:
        """Makes a key for "viewer", "operator" or "admin"; `secret` is shown only now."""
        request = admin_pb2.CreateKeyRequest(
            role=Role.Value(f"ROLE_{role.upper()}"), name=name, request_id=uuid4().hex
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

    async def revoke(self, key_id: str) -> ApiKey:
        """Makes a key useless, everywhere within ten seconds."""
        request = admin_pb2.RevokeKeyRequest(key_id=key_id)
        return ApiKey.of((await self._call(self._stub.RevokeKey, request)).key)
