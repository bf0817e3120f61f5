"""A store process, a tap that counts its streams, a gateway, and those who watch through it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import grpc
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from meshkit.testkit import MeshProcess

from tests.support.wire_tap import WireTap

from .conftest import Gateway

SUBSCRIBE = "SubscribeConversation"
PATIENCE = 30.0


@dataclass
class Watched:
    """One conversation without runtimes, so that its log holds what the test puts there."""

    store: MeshProcess
    tap: WireTap
    gateway: Gateway
    conversation_id: str = ""

    @property
    def stub(self) -> Any:
        return ConversationServiceStub(self.gateway.channel)

    @property
    def streams(self) -> int:
        """Subscriptions that the gateway holds at the store now."""
        return self.tap.open[SUBSCRIBE]

    async def start(self) -> None:
        """Starts the conversation."""
        started = await self.stub.StartConversation(
            pb2.StartConversationRequest(task="watch", agents=["developer"])
        )
        self.conversation_id = started.conversation_id

    async def send(self, content: str) -> None:
        """Adds a message."""
        request = pb2.SendMessageRequest(conversation_id=self.conversation_id, content=content)
        await self.stub.SendMessage(request, timeout=PATIENCE)

    async def send_many(self, count: int, size: int = 16, at_once: int = 16) -> None:
        """Adds messages."""
        numbers = iter(range(count))

        async def writer() -> None:
            for number in numbers:
                await self.send(f"{number} ".ljust(size, "."))

        await asyncio.gather(*(writer() for _ in range(at_once)))

    async def cancel(self) -> None:
        """Ends the run."""
        await self.stub.CancelConversation(
            pb2.CancelConversationRequest(conversation_id=self.conversation_id)
        )

    async def log(self) -> list[bytes]:
        """The events as the store lists them."""
        events: list[bytes] = []
        token = ""
        while True:
            page = await self.stub.ListEvents(
                pb2.ListEventsRequest(conversation_id=self.conversation_id, page_token=token)
            )
            events += [event.SerializeToString(deterministic=True) for event in page.events]
            token = page.next_page_token
            if not token:
                return events

    def subscribe(self, channel: grpc.aio.Channel | None = None, **fields: Any) -> Any:
        """A subscription's call, on the connection that all share if none is given."""
        stub: Any = ConversationServiceStub(channel or self.gateway.channel)
        return stub.SubscribeConversation(
            pb2.SubscribeConversationRequest(conversation_id=self.conversation_id, **fields),
            timeout=2 * PATIENCE,
        )

    async def answers(self) -> None:
        """Waits until the store can be reached again."""
        path = f"/conversations/{self.conversation_id}"
        async with asyncio.timeout(PATIENCE):
            while (await self.gateway.http.get(path)).status_code != HTTPStatus.OK:
                await asyncio.sleep(0.05)

    async def settled(self, streams: int) -> None:
        """Waits until the gateway holds so many streams at the store."""
        async with asyncio.timeout(PATIENCE):
            while self.streams != streams:
                await asyncio.sleep(0.01)


class View:
    """What one subscriber has seen."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.last = 0
        self.token = ""
        self.grown = asyncio.Event()

    def take(self, item: stream_pb2.StreamItem) -> None:
        self.token = item.resume_token or self.token
        for event in item.events.events:
            assert event.sequence == self.last + 1
            self.last = event.sequence
            self.events.append(event.SerializeToString(deterministic=True))
        self.grown.set()

    async def reaches(self, sequence: int) -> None:
        """Waits until it has seen so much."""
        async with asyncio.timeout(PATIENCE):
            while self.last < sequence:
                self.grown.clear()
                await self.grown.wait()

    async def follow(self, call: Any) -> None:
        """Reads a call until it ends or is cancelled."""
        async for response in call:
            self.take(response.item)

    async def follow_restlessly(self, watched: Watched, until: int, chance: random.Random) -> None:
        """Reads over many calls, leaving each after some responses."""
        while self.last < until:
            call = watched.subscribe(resume_token=self.token)
            for _ in range(chance.randint(1, 8)):
                response = await call.read()
                assert response is not grpc.aio.EOF
                self.take(response.item)
                if self.last >= until:
                    break
            call.cancel()
