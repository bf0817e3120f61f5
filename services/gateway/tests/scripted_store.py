"""A store whose subscriptions do what a test says, behind a real gRPC server.

For what a real store cannot be made to do on command: stay silent, fail in mid-stream, or tell that
its caller has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1.conversation_pb2 import CONVERSATION_ACCESS_SHARE, Conversation
from agentmesh.conversation.v1.event_pb2 import Event
from agentmesh.conversation.v1.message_pb2 import Message
from agentmesh.conversation.v1.stream_pb2 import Delta, EventBatch, Heartbeat, StreamItem
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1 import identity_service_pb2 as identity_pb2
from agentmesh.conversation_store.v1 import ledger_service_pb2 as ledger_pb2
from agentmesh_gateway.registration import adder
from meshkit.errors import MeshError
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory

Script = Callable[[store_pb2.SubscribeConversationRequest], AsyncIterator[StreamItem]]


class ScriptedStore:
    """Answers subscriptions by a script, and remembers who asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[store_pb2.SubscribeConversationRequest] = []
        self.left = asyncio.Event()

    async def subscribe_conversation(
        self, request: store_pb2.SubscribeConversationRequest, context: Any
    ) -> AsyncIterator[store_pb2.SubscribeConversationResponse]:
        self.requests.append(request)
        try:
            async for item in self.script(request):
                yield store_pb2.SubscribeConversationResponse(item=item)
        except (asyncio.CancelledError, GeneratorExit):  # while it waited, or while it wrote
            self.left.set()
            raise

    async def get_conversation(
        self, request: store_pb2.GetConversationRequest, context: Any
    ) -> store_pb2.GetConversationResponse:
        if request.conversation_id != "conv_1":
            raise MeshError.not_found("conversation", request.conversation_id)
        return store_pb2.GetConversationResponse(
            conversation=Conversation(conversation_id="conv_1")
        )

    async def list_events(
        self, request: store_pb2.ListEventsRequest, context: Any
    ) -> store_pb2.ListEventsResponse:
        return store_pb2.ListEventsResponse()

    async def check_access(
        self, request: store_pb2.CheckAccessRequest, context: Any
    ) -> store_pb2.CheckAccessResponse:
        if request.conversation_id != "conv_1":
            raise MeshError.not_found("conversation", request.conversation_id)
        return store_pb2.CheckAccessResponse(access=CONVERSATION_ACCESS_SHARE)


class Keys:
    """Knows the secrets of viewers of the tenant `default`; can be made unable to look them up."""

    def __init__(self, *secrets: str) -> None:
        self.secrets = set(secrets)
        self.down = False
        self.failed = 0
        self.failed_twice = asyncio.Event()

    async def authenticate_key(
        self, request: identity_pb2.AuthenticateKeyRequest, context: Any
    ) -> identity_pb2.AuthenticateKeyResponse:
        if self.down:
            self.failed += 1
            if self.failed == 2:
                self.failed_twice.set()
            raise MeshError.unavailable("database", "gone")
        answer = identity_pb2.AuthenticateKeyResponse(keys_exist=bool(self.secrets))
        if request.secret in self.secrets:
            answer.key.key_id = "key_1"
            answer.key.tenant = "default"
            answer.key.role = options_pb2.ROLE_VIEWER
        return answer


class Ledger:
    """Keeps no audit records, and says it does."""

    async def append_audit(
        self, request: ledger_pb2.AppendAuditRequest, context: Any
    ) -> ledger_pb2.AppendAuditResponse:
        return ledger_pb2.AppendAuditResponse()


async def start_scripted_store(
    hosts: HostFactory, store: ScriptedStore, keys: Keys | None = None, **settings: Any
) -> ServiceHost:
    """Serves `store` on a free port; without `keys` there are none."""
    services = {
        store_pb2.DESCRIPTOR.services_by_name["ConversationStoreService"]: store,
        identity_pb2.DESCRIPTOR.services_by_name["IdentityService"]: keys or Keys(),
        ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"]: Ledger(),
    }
    return await hosts.start(
        "conversation_store",
        [(adder(service), servicer, service.full_name) for service, servicer in services.items()],
        **settings,
    )


def events(*sequences: int) -> StreamItem:
    """One item with messages at these sequences."""
    batch = EventBatch(
        events=[
            Event(
                sequence=sequence,
                conversation_id="conv_1",
                message=Message(agent="developer", content=f"message {sequence}"),
            )
            for sequence in sequences
        ]
    )
    return StreamItem(events=batch, resume_token=f"token-{sequences[-1]}")


def delta(text: str) -> StreamItem:
    """One item with a piece of a message."""
    return StreamItem(delta=Delta(message_id="msg_1", text=text))


def heartbeat(through: int) -> StreamItem:
    """One item with a sign of life."""
    return StreamItem(
        heartbeat=Heartbeat(delivered_through=through, head_sequence=through),
        resume_token=f"token-{through}",
    )
