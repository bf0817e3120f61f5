"""A storm over two replicas of the store: people write, runtimes take turns, readers come and go,
and one part after another is killed. What must be true afterwards is checked against the log."""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
from agentmesh.catalog.v1 import agent_pb2, team_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, stream_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb
from agentmesh.conversation_store.v1 import (
    conversation_store_service_pb2_grpc,
    turn_service_pb2_grpc,
)
from meshkit.channels import MeshChannels, call_metadata
from meshkit.identity import Principal
from meshkit.settings import ServiceSettings
from meshkit.testkit import MeshProcess
from pydantic import SecretStr

from tests.support.databases import PostgresServer, RedisServer
from tests.support.storm_worker import StormWorker

T = TypeVar("T")

SOMEBODY = Principal("somebody", "acme", 3)
TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
CALL_SECONDS = 10.0
SETTLE_SECONDS = 120.0


@dataclass
class Tally:
    """What happened, and what was promised."""

    acknowledged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    kills: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    failures: int = 0
    resumptions: int = 0
    deltas: int = 0
    turns: int = 0

    def __str__(self) -> str:
        said = sum(map(len, self.acknowledged.values()))
        killed = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"{said} messages acknowledged, {self.turns} turns, {self.resumptions} resumptions, "
            f"{self.deltas} deltas, {self.failures} failed calls; killed: {killed}"
        )


class StoreStorm:
    """Postgres, Redis and two stores as processes, with everybody who uses them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.tally = Tally()
        self.chance = random.Random(seed)
        self.postgres = PostgresServer()
        self.redis = RedisServer()
        self.stores: list[MeshProcess] = []
        self.conversations: list[str] = []
        self._folder = folder
        self._channels: MeshChannels
        self._stack = AsyncExitStack()
        self._over = False

    async def __aenter__(self) -> StoreStorm:
        for server in (self.postgres, self.redis):
            await asyncio.to_thread(server.start)
            self._stack.push_async_callback(asyncio.to_thread, server.close)
        secret = secrets.token_hex(32)
        environment = {
            "POSTGRES_URL": await asyncio.to_thread(self.postgres.create_database),
            "REDIS_URL": self.redis.url,
            "API_KEY_SECRET": secret,
            "AGENTMESH_INTERNAL_SECRET": secret,
            "AGENTMESH_MAX_LOST_WORKERS": "1000",
            "AGENTMESH_LEASE_SECONDS": "3",
            "AGENTMESH_LEASE_RENEW_SECONDS": "0.5",
            "AGENTMESH_POSTGRES_TIMEOUT_SECONDS": "5",
        }
        for number in range(2):
            store = MeshProcess(
                [sys.executable, "-m", "agentmesh_conversation_store"],
                self._folder / f"store{number}",
                environment,
            )
            self.stores.append(store)
        # Both at once: one of them migrates.
        await asyncio.gather(*(self._stack.enter_async_context(store) for store in self.stores))
        settings = ServiceSettings(data_dir=self._folder, internal_secret=SecretStr(secret))
        self._channels = MeshChannels("agent_runtime", settings)
        self._stack.push_async_callback(self._channels.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # --- the course of it ------------------------------------------------------------------------

    async def blow(
        self, seconds: float, *, writers: int, readers: int, workers: int, conversations: int
    ) -> list[StormReader]:
        """Lets everybody loose, kills one part after another, then lets it settle."""
        self.conversations = [await self._start() for _ in range(conversations)]
        all_readers = [
            StormReader(self, self.conversations[number % conversations])
            for number in range(readers)
        ]
        runtimes = [StormWorker(self, f"worker{number}") for number in range(workers)]
        async with asyncio.TaskGroup() as people, asyncio.TaskGroup() as runtimes_at_work:
            working = [runtimes_at_work.create_task(runtime.work()) for runtime in runtimes]
            reading = [people.create_task(reader.read_on()) for reader in all_readers]
            writing = [people.create_task(self._write(number)) for number in range(writers)]
            await self._kill_about(seconds)
            self._over = True
            await asyncio.gather(*writing)
            await self._settled()
            await asyncio.gather(*reading)
            for task in working:
                task.cancel()
        return all_readers

    @property
    def over(self) -> bool:
        """True once nobody shall begin anything new."""
        return self._over

    async def _kill_about(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        victims = ["store0", "postgres", "store1", "redis"]
        while time.monotonic() < ends:
            for victim in victims:
                await asyncio.sleep(self.chance.uniform(0.5, 1.5))
                await self._kill(victim)
            self.chance.shuffle(victims)

    async def _kill(self, victim: str) -> None:
        self.tally.kills[victim] += 1
        pause = self.chance.uniform(0.0, 1.0)
        if victim.startswith("store"):
            store = self.stores[int(victim[-1])]
            await store.sigkill()
            await asyncio.sleep(pause)
            await store.start()
            return
        server = self.postgres if victim == "postgres" else self.redis
        await asyncio.to_thread(server.sigkill)
        await asyncio.sleep(pause)
        await asyncio.to_thread(server.start)

    async def _settled(self) -> None:
        """Every run that could be taken was taken, and ended."""
        request = store_pb.ListConversationsRequest(
            statuses=[conversation_pb2.CONVERSATION_STATUS_RUNNING], page_size=500
        )
        async with asyncio.timeout(SETTLE_SECONDS):
            while (await self.call("ListConversations", request)).conversations:
                await asyncio.sleep(0.2)

    # --- calls -----------------------------------------------------------------------------------

    def channel(self) -> grpc.aio.Channel:
        """To one of the replicas, by chance."""
        store = self.chance.choice(self.stores)
        return self._channels.channel(store.grpc_address, "conversation_store")

    def turns(self) -> Any:
        """TurnService at one of the replicas."""
        return turn_service_pb2_grpc.TurnServiceStub(self.channel())

    async def call(self, method: str, request: Any) -> Any:
        """What some replica answers a person at last."""

        async def once() -> Any:
            stub = conversation_store_service_pb2_grpc.ConversationStoreServiceStub(self.channel())
            metadata = call_metadata(SOMEBODY)
            return await getattr(stub, method)(request, metadata=metadata, timeout=CALL_SECONDS)

        return await self.insist(once)

    async def insist(self, make: Callable[[], Awaitable[T]]) -> T:
        """Repeats a call until it is answered with more than a passing failure, as clients do."""
        while True:
            try:
                return await make()
            except grpc.aio.AioRpcError as error:
                if error.code() not in TRANSIENT:
                    raise
                self.tally.failures += 1
                await asyncio.sleep(self.chance.uniform(0.02, 0.2))

    async def _start(self) -> str:
        agent = agent_pb2.AgentDefinition(id="writer", role="writes")
        request = store_pb.StartConversationRequest(
            task="weather a storm",
            definition=team_pb2.TeamDefinition(
                id="solo",
                kind=team_pb2.TEAM_KIND_SINGLE,
                participants=[team_pb2.Participant(agent=agent)],
            ),
            agents=["writer"],
            max_rounds=1_000_000,
            request_id=secrets.token_hex(8),
        )
        response = await self.call("StartConversation", request)
        return str(response.conversation.conversation_id)

    async def _write(self, writer: int) -> None:
        number = 0
        while not self._over:
            number += 1
            conversation_id = self.chance.choice(self.conversations)
            text = f"writer {writer} message {number}"
            request = store_pb.SendMessageRequest(
                conversation_id=conversation_id, content=text, request_id=text
            )
            await self.call("SendMessage", request)
            self.tally.acknowledged[conversation_id].append(text)
            await asyncio.sleep(self.chance.uniform(0.0, 0.3))

    async def log(self, conversation_id: str) -> list[event_pb2.Event]:
        """All of it, by pages."""
        events: list[event_pb2.Event] = []
        while True:
            request = store_pb.ListEventsRequest(
                conversation_id=conversation_id,
                after_sequence=events[-1].sequence if events else 0,
                page_size=1000,
            )
            page = await self.call("ListEvents", request)
            events += page.events
            if len(page.events) == 0:
                return events


class StormReader:
    """A subscriber that leaves and comes back by chance, each time at some replica."""

    def __init__(self, storm: StoreStorm, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self.events: list[event_pb2.Event] = []
        self._storm = storm
        self._token = ""

    async def read_on(self) -> None:
        """Reads until the storm is over, then what is left."""
        chance, tally = self._storm.chance, self._storm.tally
        while not self._storm.over:
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.05, 3.0)):
                    await self._subscribe(stream_pb2.SUBSCRIBE_UNTIL_FOREVER)
            tally.resumptions += 1
        await self._storm._settled()
        await self._storm.insist(lambda: self._subscribe(stream_pb2.SUBSCRIBE_UNTIL_HEAD))

    async def _subscribe(self, until: stream_pb2.SubscribeUntil.ValueType) -> None:
        request = store_pb.SubscribeConversationRequest(
            conversation_id=self.conversation_id, resume_token=self._token, until=until
        )
        stub: Any = conversation_store_service_pb2_grpc.ConversationStoreServiceStub(
            self._storm.channel()
        )
        call = stub.SubscribeConversation(request, metadata=call_metadata(SOMEBODY))
        try:
            async for response in call:
                item = response.item
                self.events += item.events.events
                self._storm.tally.deltas += item.HasField("delta")
                self._token = item.resume_token or self._token
        except grpc.aio.AioRpcError as error:
            if until == stream_pb2.SUBSCRIBE_UNTIL_HEAD or error.code() not in TRANSIENT:
                raise
            await asyncio.sleep(self._storm.chance.uniform(0.02, 0.2))
        finally:
            call.cancel()


async def check(storm: StoreStorm, readers: list[StormReader]) -> None:
    """Each log is dense and holds what was acknowledged, once; each reader saw all of it, once,
    in order, byte for byte; every run ended."""
    logs = {cid: await storm.log(cid) for cid in storm.conversations}
    for conversation_id, log in logs.items():
        assert [event.sequence for event in log] == list(range(1, len(log) + 1))
        said = [e.message.content for e in log if e.message.role == 1]  # people's
        assert len(said) == len(set(said)), "a message stands in the log twice"
        missing = set(storm.tally.acknowledged[conversation_id]) - set(said)
        assert not missing, f"acknowledged and lost: {sorted(missing)[:3]}"
        started = {e.run_id for e in log if e.HasField("run_started")}
        ended = [e.run_id for e in log if e.HasField("run_ended")]
        assert sorted(started) == sorted(ended), "a run was never finished"
    for reader in readers:
        seen = [event.SerializeToString(deterministic=True) for event in reader.events]
        kept = [e.SerializeToString(deterministic=True) for e in logs[reader.conversation_id]]
        assert seen == kept, f"a reader of {reader.conversation_id} saw another log"
