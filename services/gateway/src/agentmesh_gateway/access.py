"""Whether a caller may still read what they read; the store decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from meshkit.context import Principal, current_principal, principal_scope
from meshkit.errors import from_rpc_error
from meshkit.roles import Role, includes

_ASK_SECONDS = 5.0

AskStore: TypeAlias = Callable[..., Awaitable[store_pb2.CheckAccessResponse]]


@dataclass(frozen=True, slots=True)
class Reading:
    """Somebody reads a conversation. Equal ones are asked about together."""

    principal: Principal
    conversation_id: str


class ReadAccess:
    """Asks the store about those who may not see everything in their tenant."""

    def __init__(self, ask: AskStore) -> None:
        self._ask = ask

    async def admit(self, conversation_id: str) -> Reading | None:
        """That the current principal may read a conversation; None if nothing but their credentials
        can take that away. Raises MeshError NOT_FOUND."""
        principal = current_principal()
        if includes(principal.role, Role.OPERATOR):
            return None
        reading = Reading(principal, conversation_id)
        await self.check(reading)
        return reading

    async def check(self, reading: Reading) -> None:
        """Raises MeshError: NOT_FOUND if it must not be read any more."""
        request = store_pb2.CheckAccessRequest(conversation_id=reading.conversation_id)
        with principal_scope(reading.principal):
            try:
                await self._ask(request, timeout=_ASK_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
