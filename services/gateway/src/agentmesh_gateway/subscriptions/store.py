"""The store, as subscriptions use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2

from agentmesh_gateway.upstream import BytesStream

ByteCall: TypeAlias = "grpc.aio.UnaryStreamCall[Any, bytes]"

_ASK_SECONDS = 5.0
_ENDED = frozenset(
    {
        conversation_pb2.CONVERSATION_STATUS_COMPLETED,
        conversation_pb2.CONVERSATION_STATUS_FAILED,
        conversation_pb2.CONVERSATION_STATUS_CANCELLED,
    }
)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a run is under way, and the newest event as of then."""

    active: bool
    head: int


class StoreSubscriptions:
    """Calls act for the current principal."""

    def __init__(
        self,
        subscribe: BytesStream[store_pb2.SubscribeConversationRequest],
        get_conversation: Callable[..., Awaitable[store_pb2.GetConversationResponse]],
    ) -> None:
        self._subscribe = subscribe
        self._get_conversation = get_conversation

    def open(self, request: store_pb2.SubscribeConversationRequest) -> ByteCall:
        """A stream of serialized responses."""
        call: ByteCall = self._subscribe(request)
        return call

    async def standing(self, conversation_id: str) -> Standing:
        """How the conversation stands. Raises AioRpcError."""
        request = store_pb2.GetConversationRequest(conversation_id=conversation_id)
        answer = await self._get_conversation(request, timeout=_ASK_SECONDS)
        found = answer.conversation
        return Standing(found.status not in _ENDED, found.head_sequence)
