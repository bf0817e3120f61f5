"""Streams of a conversation that is shared: who gets them, and when they end."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from agentmesh.conversation.v1.conversation_pb2 import CONVERSATION_ACCESS_READ
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from meshkit.testkit import HostFactory, MeshProcess, raises_rich

from .conftest import Gateways
from .front import Front, stand_before
from .tenants import Caller, caller

PATIENCE = 30.0


class Watcher:
    """Somebody who watches a conversation."""

    def __init__(self, front: Front, who: Caller, name: str, token: str = "") -> None:
        request = pb2.SubscribeConversationRequest(conversation_id=name, resume_token=token)
        self.call: Any = front.conversations.SubscribeConversation(request, metadata=who.metadata)
        self.token = ""

    async def until(self, content: str) -> None:
        """Reads until somebody says that."""
        async with asyncio.timeout(PATIENCE):
            while True:
                response = await self.call.read()
                assert response is not grpc.aio.EOF
                self.token = response.item.resume_token or self.token
                if any(e.message.content == content for e in response.item.events.events):
                    return

    async def ended(self) -> None:
        """Reads to the end."""
        async with asyncio.timeout(PATIENCE):
            while await self.call.read() is not grpc.aio.EOF:
                pass


async def _started(front: Front, who: Caller) -> str:
    request = pb2.StartConversationRequest(task="first", agents=["developer"])
    return str(
        (
            await front.conversations.StartConversation(request, metadata=who.metadata)
        ).conversation_id
    )


async def _share(front: Front, owner: Caller, name: str, whom: Caller) -> None:
    request = pb2.ShareConversationRequest(
        conversation_id=name, subject=whom.key_id, access=CONVERSATION_ACCESS_READ
    )
    await front.conversations.ShareConversation(request, metadata=owner.metadata)


async def _say(front: Front, who: Caller, name: str, content: str) -> None:
    request = pb2.SendMessageRequest(conversation_id=name, content=content)
    await front.conversations.SendMessage(request, metadata=who.metadata)


async def test_a_stream_ends_when_its_grant_is_taken_back_and_others_go_on(
    own_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await stand_before(own_store, gateways, mesh_hosts)
    owner, guest = [await caller(front, mesh_hosts, "user") for _ in range(2)]
    name = await _started(front, owner)
    await _share(front, owner, name, guest)
    # The guest comes first: what the gateway hears of the conversation is not the guest's to lose.
    watching = Watcher(front, guest, name)
    await watching.until("first")
    mine = Watcher(front, owner, name)
    await mine.until("first")
    request = pb2.UnshareConversationRequest(conversation_id=name, subject=guest.key_id)
    await front.conversations.UnshareConversation(request, metadata=owner.metadata)
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await watching.ended()
    await _say(front, owner, name, "alone")
    await mine.until("alone")
    mine.call.cancel()


async def test_what_the_gateway_hears_already_is_not_for_everybody(
    own_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    front = await stand_before(own_store, gateways, mesh_hosts)
    owner, stranger = [await caller(front, mesh_hosts, "user") for _ in range(2)]
    name = await _started(front, owner)
    mine = Watcher(front, owner, name)
    await mine.until("first")
    await _say(front, owner, name, "secret")
    await mine.until("secret")
    for token in ("", mine.token):
        with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
            await Watcher(front, stranger, name, token).ended()
    mine.call.cancel()
