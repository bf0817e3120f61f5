"""With whom conversations are shared."""

from __future__ import annotations

from typing import Any, Literal
from uuid import uuid4

import grpc
from agentmesh.common.v1.options_pb2 import Role
from agentmesh.conversation.v1.conversation_pb2 import ConversationAccess
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from agentmesh_client.models import Grant
from agentmesh_client.transport import Caller

Access = Literal["read", "write"]


class Sharing:
    """`mesh.sharing`: lets others read a conversation or take part, for those whose it is.

    Others are a `subject`, such as the id of a key, or all whose role includes `role`: "viewer",
    "user" or "service".
    """

    def __init__(self, channel: grpc.aio.Channel, call: Caller) -> None:
        self._stub: Any = ConversationServiceStub(channel)
        self._call = call

    async def share(
        self, conversation_id: str, *, subject: str = "", role: str = "", access: Access = "read"
    ) -> Grant:
        """Shares it, or changes for what it is shared."""
        request = pb2.ShareConversationRequest(
            conversation_id=conversation_id,
            subject=subject,
            role=_role(role),
            access=ConversationAccess.Value(f"CONVERSATION_ACCESS_{access.upper()}"),
            request_id=uuid4().hex,
        )
        return Grant.of((await self._call(self._stub.ShareConversation, request)).grant)

    async def unshare(self, conversation_id: str, *, subject: str = "", role: str = "") -> None:
        """Shares it no longer; what is not shared is no error."""
        request = pb2.UnshareConversationRequest(
            conversation_id=conversation_id,
            subject=subject,
            role=_role(role),
            request_id=uuid4().hex,
        )
        await self._call(self._stub.UnshareConversation, request)

    async def list(self, conversation_id: str) -> list[Grant]:
        """With whom it is shared: roles first, then subjects."""
        request = pb2.ListGrantsRequest(conversation_id=conversation_id)
        grants: list[Grant] = []
        while True:
            page = await self._call(self._stub.ListGrants, request)
            grants.extend(map(Grant.of, page.grants))
            if not page.next_page_token:
                return grants
            request.page_token = page.next_page_token


def _role(name: str) -> Role.ValueType:
    return Role.Value(f"ROLE_{name.upper()}" if name else "ROLE_UNSPECIFIED")
