"""Callers of a store in tests: people, a runtime by hand, and a reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from agentmesh.conversation.v1 import event_pb2, stream_pb2
from agentmesh.conversation_store.v1 import (
    catalog_service_pb2_grpc,
    conversation_store_service_pb2_grpc,
    identity_service_pb2_grpc,
    turn_service_pb2_grpc,
)
from agentmesh_conversation_store.server import build
from agentmesh_conversation_store.settings import StoreSettings
from meshkit.channels import MeshChannels, call_metadata
from meshkit.identity import Principal
from meshkit.server import ServiceHost

from services.conversation_store.tests.support import (
    ACME,
    DIGEST,
    PATIENCE,
    acting,
    fresh,
    message_event,
    store_pb,
    team,
    turn_pb,
)

Database = Mapping[str, Any]  # the settings that name a database


@dataclass
class StoreClient:
    """Stubs to a store, and what a caller does with them."""

    address: str
    settings: StoreSettings
    channels: MeshChannels
    workers: list[LeasedWorker] = field(default_factory=list)

    @classmethod
    def to(cls, address: str, data_dir: Path) -> StoreClient:
        """To a store elsewhere."""
        settings = StoreSettings(data_dir=data_dir)
        return cls(address, settings, MeshChannels("agent_runtime", settings))

    async def close(self) -> None:
        """Leaves."""
        for worker in self.workers:
            await worker.leave()
        await self.channels.close()

    @property
    def channel(self) -> grpc.aio.Channel:
        """To the server."""
        return self.channels.channel(self.address, "conversation_store")

    @property
    def conversations(self) -> Any:
        """ConversationStoreService."""
        return conversation_store_service_pb2_grpc.ConversationStoreServiceStub(self.channel)

    @property
    def turns(self) -> Any:
        """TurnService."""
        return turn_service_pb2_grpc.TurnServiceStub(self.channel)

    @property
    def catalog(self) -> Any:
        """CatalogService."""
        return catalog_service_pb2_grpc.CatalogServiceStub(self.channel)

    @property
    def identity(self) -> Any:
        """IdentityService."""
        return identity_service_pb2_grpc.IdentityServiceStub(self.channel)

    async def start_conversation(self, principal: Principal = ACME, **fields: Any) -> Any:
        """A conversation with one agent."""
        values: dict[str, Any] = {"task": "do it", "definition": team(), "max_rounds": 10}
        request = store_pb.StartConversationRequest(**(values | fields))
        response = await self.conversations.StartConversation(request, metadata=acting(principal))
        return response.conversation

    async def send(self, conversation_id: str, content: str = "more", **fields: Any) -> Any:
        """A message of a person."""
        request = store_pb.SendMessageRequest(
            conversation_id=conversation_id, content=content, **fields
        )
        return await self.conversations.SendMessage(request, metadata=acting(ACME))

    async def cancel(self, conversation_id: str) -> Any:
        """Cancels."""
        request = store_pb.CancelConversationRequest(
            conversation_id=conversation_id, reason="enough"
        )
        response = await self.conversations.CancelConversation(request, metadata=acting(ACME))
        return response.conversation

    async def get(self, conversation_id: str, principal: Principal = ACME) -> Any:
        """Reads."""
        request = store_pb.GetConversationRequest(conversation_id=conversation_id)
        response = await self.conversations.GetConversation(request, metadata=acting(principal))
        return response.conversation

    async def log(self, conversation_id: str) -> list[event_pb2.Event]:
        """All events."""
        events: list[event_pb2.Event] = []
        token = ""
        while True:
            page = await self.conversations.ListEvents(
                store_pb.ListEventsRequest(conversation_id=conversation_id, page_token=token),
                metadata=acting(ACME),
            )
            events += page.events
            token = page.next_page_token
            if not token:
                return events

    def subscribe(self, conversation_id: str, principal: Principal = ACME, **fields: Any) -> Any:
        """A subscription's call."""
        request = store_pb.SubscribeConversationRequest(conversation_id=conversation_id, **fields)
        return self.conversations.SubscribeConversation(request, metadata=acting(principal))

    async def worker(self, max_turns: int = 4, worker_id: str = "", **fields: Any) -> LeasedWorker:
        """A connected runtime."""
        worker = LeasedWorker(self, worker_id or fresh("worker"), max_turns, **fields)
        self.workers.append(worker)
        await worker.connect()
        return worker


@dataclass(kw_only=True)
class RunningStore(StoreClient):
    """A real server in this process."""

    host: ServiceHost

    @classmethod
    async def start(cls, data_dir: Path, **overrides: Any) -> RunningStore:
        """Starts on a free port; quick leases unless told otherwise."""
        values: dict[str, Any] = {
            "data_dir": data_dir,
            "grpc_port": 0,
            "drain_seconds": 1.0,
            "lease_seconds": 1.0,
            "lease_renew_seconds": 0.2,
            "lease_hand_over_seconds": 0.1,
            "lease_poll_seconds": 0.05,
            "sweep_seconds": 0.02,
            "retry_delay_seconds": 0.05,
            "head_check_seconds": 0.1,
            "retention_seconds": 0.2,
        }
        settings = StoreSettings(**(values | overrides))
        host = build(settings)
        await host.start()
        channels = MeshChannels("agent_runtime", settings)
        return cls(host.grpc_address, settings, channels, host=host)

    async def stop(self) -> None:
        """Stops it."""
        await self.close()
        await self.host.stop()


class LeasedWorker:
    """A runtime by hand: it renews its leases and keeps what it is told."""

    def __init__(
        self,
        store: StoreClient,
        worker_id: str,
        max_turns: int,
        *,
        renews: bool = True,
        held: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.store = store
        self.worker_id = worker_id
        self.max_turns = max_turns
        self.held: dict[str, int] = dict(held)
        self.revoked: asyncio.Queue[turn_pb.LeaseRevoked] = asyncio.Queue()
        self.grants: asyncio.Queue[turn_pb.TurnGrant] = asyncio.Queue()
        self._renews = renews
        self._outgoing: asyncio.Queue[turn_pb.LeaseTurnsRequest | None] = asyncio.Queue()
        self._call: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Says hello and waits to be accepted."""
        hello = turn_pb.LeaseHello(worker_id=self.worker_id, max_turns=self.max_turns)
        for run_id, fence in self.held.items():
            hello.held.add(run_id=run_id, fence=fence)
        self._outgoing.put_nowait(turn_pb.LeaseTurnsRequest(hello=hello))
        self._call = self.store.turns.LeaseTurns(self._requests())
        first = await self._call.read()
        assert first.WhichOneof("kind") == "accepted"
        self._tasks = [asyncio.create_task(self._listen())]
        if self._renews:
            self._tasks.append(asyncio.create_task(self._renew()))

    async def leave(self) -> None:
        """Breaks the stream, as a dying process does."""
        for task in self._tasks:
            task.cancel()
        if self._call is not None:
            self._call.cancel()

    def resize(self, max_turns: int) -> None:
        """Tells another capacity."""
        capacity = turn_pb.LeaseCapacity(max_turns=max_turns)
        self._outgoing.put_nowait(turn_pb.LeaseTurnsRequest(capacity=capacity))

    async def granted(self) -> Turn:
        """The next grant."""
        grant = await asyncio.wait_for(self.grants.get(), PATIENCE)
        return Turn(self.store, grant)

    async def lost(self) -> turn_pb.LeaseRevoked:
        """The next revocation."""
        return await asyncio.wait_for(self.revoked.get(), PATIENCE)

    async def _requests(self) -> AsyncIterator[turn_pb.LeaseTurnsRequest]:
        while (request := await self._outgoing.get()) is not None:
            yield request

    async def _listen(self) -> None:
        while (response := await self._call.read()) is not grpc.aio.EOF:
            kind = response.WhichOneof("kind")
            if kind == "grant":
                self.held[response.grant.run.run_id] = response.grant.fence
                self.grants.put_nowait(response.grant)
            elif kind == "revoked":
                self.held.pop(response.revoked.run_id, None)
                self.revoked.put_nowait(response.revoked)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.store.settings.lease_renew_seconds)
            renewal = turn_pb.LeaseRenewal()
            for run_id, fence in self.held.items():
                renewal.held.add(run_id=run_id, fence=fence)
            self._outgoing.put_nowait(turn_pb.LeaseTurnsRequest(renewal=renewal))


class Turn:
    """A granted turn."""

    def __init__(self, store: StoreClient, grant: turn_pb.TurnGrant) -> None:
        self.store = store
        self.grant = grant
        self.run_id = grant.run.run_id
        self.metadata = call_metadata(capability=grant.capability)

    @property
    def message_id(self) -> str:
        """Of the message this turn makes."""
        return f"msg_{self.run_id}_{self.grant.turn}"

    async def begin(self, step_key: str = "writer/1", **fields: Any) -> Any:
        """Claims a step."""
        values: dict[str, Any] = {
            "run_id": self.run_id,
            "turn": self.grant.turn,
            "step_key": step_key,
            "kind": turn_pb.STEP_KIND_MODEL,
            "request_digest": DIGEST,
            "attempt_id": "attempt-1",
        }
        request = turn_pb.BeginStepRequest(**(values | fields))
        return await self.store.turns.BeginStep(request, metadata=self.metadata)

    async def record(self, step_key: str = "writer/1", content: str = "said", **fields: Any) -> Any:
        """Records a step that said something."""
        values: dict[str, Any] = {
            "run_id": self.run_id,
            "turn": self.grant.turn,
            "step_key": step_key,
            "request_digest": DIGEST,
            "result": content.encode(),
            "events": [message_event(self.message_id, content)],
        }
        request = turn_pb.RecordStepRequest(**(values | fields))
        return await self.store.turns.RecordStep(request, metadata=self.metadata)

    async def commit(self, status: str = "RUNNABLE", **fields: Any) -> Any:
        """Commits."""
        values: dict[str, Any] = {
            "run_id": self.run_id,
            "turn": self.grant.turn,
            "status": f"RUN_STATUS_{status}",
            "checkpoint": turn_pb.Checkpoint(data=b"state"),
            "last_input_sequence": max((e.sequence for e in self.grant.inputs), default=0),
            "speaker": "writer",
        }
        request = turn_pb.CommitTurnRequest(**(values | fields))
        return await self.store.turns.CommitTurn(request, metadata=self.metadata)

    async def take(self, status: str = "RUNNABLE", **fields: Any) -> Any:
        """A whole turn: one step that says something, and the commit."""
        await self.begin()
        await self.record(content=f"turn {self.grant.turn}")
        return await self.commit(status, **fields)

    async def release(self, *, failed: bool = False, **fields: Any) -> Any:
        """Gives the lease back."""
        request = turn_pb.ReleaseTurnRequest(
            run_id=self.run_id, turn=self.grant.turn, failed=failed, **fields
        )
        return await self.store.turns.ReleaseTurn(request, metadata=self.metadata)

    def delta(self, first: int, text: str, **fields: Any) -> stream_pb2.Delta:
        """A piece of this turn's message."""
        values: dict[str, Any] = {
            "message_id": self.message_id,
            "turn": self.grant.turn,
            "agent": "writer",
            "kind": stream_pb2.DELTA_KIND_TEXT,
            "text": text,
            "first_index": first,
            "last_index": first,
            "after_sequence": self.grant.head_sequence,
        }
        return stream_pb2.Delta(**(values | fields))

    async def publish(self, *deltas: stream_pb2.Delta) -> None:
        """Publishes pieces; they have been heard when this returns."""
        request = turn_pb.PublishDeltasRequest(deltas=deltas, capability=self.grant.capability)

        async def requests() -> AsyncIterator[turn_pb.PublishDeltasRequest]:
            yield request

        await self.store.turns.PublishDeltas(requests())


class Reader:
    """Reads a subscription in the background."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.items: list[stream_pb2.StreamItem] = []
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._read())
        self._task.add_done_callback(_retrieve)

    async def _read(self) -> None:
        try:
            async for response in self.call:
                self.items.append(response.item)
                self._more.set()
        finally:
            self._more.set()

    @property
    def events(self) -> list[event_pb2.Event]:
        """So far."""
        return [event for item in self.items for event in item.events.events]

    @property
    def sequences(self) -> list[int]:
        """So far."""
        return [event.sequence for event in self.events]

    @property
    def deltas(self) -> list[stream_pb2.Delta]:
        """So far."""
        return [item.delta for item in self.items if item.HasField("delta")]

    async def until(self, condition: Callable[[Reader], bool]) -> None:
        """Waits for it."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self):
                if self._task.done():
                    self._task.result()
                    raise AssertionError(f"the stream ended with {self.items}")
                self._more.clear()
                await self._more.wait()

    async def ended(self) -> None:
        """Waits for the end of the stream."""
        await asyncio.wait_for(self._task, PATIENCE)

    def stop(self) -> None:
        """Leaves."""
        self.call.cancel()
        self._task.cancel()


def _retrieve(task: asyncio.Task[None]) -> None:
    """How a stream ended matters only to those who wait for its end."""
    _ = task.cancelled() or task.exception()
