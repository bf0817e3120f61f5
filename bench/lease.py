"""How fast runnable runs get to runtimes: 1,000 of them, of 50 tenants, and 4 runtimes.

Ours: the runs wait in a store process; four LeaseTurns streams say at once that they have places,
and the clock runs until each grant has come, with all that its worker needs: definition, inputs,
capability. A store on Postgres, and one on SQLite beside it. Reference: the bare queue in the same
table, four asyncpg connections that each take one run after the other, `SELECT … FOR UPDATE SKIP
LOCKED` and an `UPDATE` in a transaction: by age alone, neither fair nor limited, and nothing is
read for the worker. fsync and synchronous_commit are on.

Beside it: how long one run waits for idle runtimes, from the call that starts it to its grant, and
turns per second when the runtimes have 16 places each and commit at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from agentmesh.catalog.v1 import agent_pb2, team_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
    ConversationStoreServiceStub,
)
from agentmesh.conversation_store.v1.turn_service_pb2_grpc import TurnServiceStub
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.conversations import StartConversation
from agentmesh_conversation_store.domain.model import ConversationFacts
from agentmesh_conversation_store.domain.usage import Budget
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from meshkit.channels import MeshChannels, call_metadata
from meshkit.identity import SYSTEM, Principal
from meshkit.ids import new_id
from meshkit.settings import ServiceSettings
from meshkit.testkit import MeshProcess

from bench.harness.latencies import Latencies
from bench.harness.rounds import Rounds, Target, report
from tests.support.databases import PostgresServer

RUNTIMES = 4
RUNS = 1000
TENANTS = 50
PLACES = 16
ALONE = 100
TARGET = Target("at least", 1.0)
_STARTERS = 32
_DEFINITION = team_pb2.TeamDefinition(
    id="solo",
    kind=team_pb2.TEAM_KIND_SINGLE,
    participants=[team_pb2.Participant(agent=agent_pb2.AgentDefinition(id="writer", role="w"))],
)


@dataclass
class Drain:
    """What became of a queue full of runs: seconds from its opening to each grant."""

    grants: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Per second."""
        return len(self.grants) / self.seconds


class Runtime:
    """One LeaseTurns stream."""

    def __init__(self, turns: Any) -> None:
        self._turns = turns
        self._outgoing: asyncio.Queue[turns_pb2.LeaseTurnsRequest] = asyncio.Queue()
        self.grants: asyncio.Queue[tuple[float, turns_pb2.TurnGrant]] = asyncio.Queue()
        self._call: Any = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Without a place as yet."""
        hello = turns_pb2.LeaseHello(worker_id=new_id("wrk"), max_turns=0)
        self._outgoing.put_nowait(turns_pb2.LeaseTurnsRequest(hello=hello))
        self._call = self._turns.LeaseTurns(self._requests(), metadata=call_metadata(SYSTEM))
        await self._call.read()
        self._reading = asyncio.create_task(self._read())

    def resize(self, places: int) -> None:
        """Says how many turns it can take."""
        capacity = turns_pb2.LeaseCapacity(max_turns=places)
        self._outgoing.put_nowait(turns_pb2.LeaseTurnsRequest(capacity=capacity))

    async def complete(self, grant: turns_pb2.TurnGrant) -> None:
        """Ends the run."""
        request = turns_pb2.CommitTurnRequest(
            run_id=grant.run.run_id,
            turn=grant.turn,
            status=conversation_pb2.RUN_STATUS_COMPLETED,
            checkpoint=turns_pb2.Checkpoint(data=b"state"),
            last_input_sequence=max((event.sequence for event in grant.inputs), default=0),
        )
        await self._turns.CommitTurn(request, metadata=call_metadata(capability=grant.capability))

    def close(self) -> None:
        """Leaves."""
        self._call.cancel()
        if self._reading is not None:
            self._reading.cancel()

    async def _requests(self) -> AsyncIterator[turns_pb2.LeaseTurnsRequest]:
        while True:
            yield await self._outgoing.get()

    async def _read(self) -> None:
        while (response := await self._call.read()) is not grpc.aio.EOF:
            if response.WhichOneof("kind") == "grant":
                self.grants.put_nowait((time.perf_counter(), response.grant))


class Store:
    """A store process and the runtimes that are connected to it."""

    def __init__(self, channel: Any) -> None:
        self._conversations: Any = ConversationStoreServiceStub(channel)
        self.runtimes = [Runtime(TurnServiceStub(channel)) for _ in range(RUNTIMES)]

    async def start_run(self, number: int) -> None:
        """Makes a run runnable."""
        request = store_pb2.StartConversationRequest(
            task="bench", definition=_DEFINITION, agents=["writer"], max_rounds=10
        )
        tenant = Principal("bench", f"tenant{number % TENANTS}", 2)
        await self._conversations.StartConversation(request, metadata=call_metadata(tenant))

    async def fill(self) -> None:
        """1,000 runs that wait."""
        numbers = iter(range(RUNS))

        async def start() -> None:
            for number in numbers:
                await self.start_run(number)

        await asyncio.gather(*(start() for _ in range(_STARTERS)))

    async def grant_all(self) -> Drain:
        """Every run to a runtime that has a place for it."""
        await self.fill()
        return await self._drain(RUNS // RUNTIMES, at_once=False)

    async def take_all(self) -> Drain:
        """Every run to a runtime that ends it at once, and has 16 places."""
        await self.fill()
        return await self._drain(PLACES, at_once=True)

    async def _drain(self, places: int, *, at_once: bool) -> Drain:
        drain = Drain()
        ended = asyncio.Event()
        granted: list[tuple[Runtime, turns_pb2.TurnGrant]] = []
        commits: set[asyncio.Task[None]] = set()
        began = time.perf_counter()

        async def work(runtime: Runtime) -> None:
            while True:
                came, grant = await runtime.grants.get()
                drain.grants.append(came - began)
                granted.append((runtime, grant))
                if at_once:
                    commits.add(asyncio.create_task(runtime.complete(grant)))
                if len(granted) == RUNS:
                    ended.set()

        tasks = [asyncio.create_task(work(runtime)) for runtime in self.runtimes]
        for runtime in self.runtimes:
            runtime.resize(places)
        await ended.wait()
        await asyncio.gather(*commits)
        drain.seconds = time.perf_counter() - began if at_once else max(drain.grants)
        for task in tasks:
            task.cancel()
        for runtime in self.runtimes:
            runtime.resize(0)
        if not at_once:
            await asyncio.gather(*(runtime.complete(grant) for runtime, grant in granted))
        return drain

    async def one_by_one(self) -> list[float]:
        """Milliseconds from the call that starts a run to its grant, with idle runtimes."""
        waits = []
        for runtime in self.runtimes:
            runtime.resize(PLACES)
        for number in range(ALONE):
            getting = [asyncio.ensure_future(one.grants.get()) for one in self.runtimes]
            began = time.perf_counter()
            await self.start_run(number)
            done, waiting = await asyncio.wait(getting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            ((came, grant),) = [task.result() for task in done]
            waits.append(1000 * (came - began))
            await self.runtimes[0].complete(grant)
        for runtime in self.runtimes:
            runtime.resize(0)
        return waits


@asynccontextmanager
async def running_store(name: str, environment: dict[str, str]) -> AsyncIterator[Store]:
    """A store on the database that `environment` names, with four runtimes."""
    with tempfile.TemporaryDirectory(prefix=f"agentmesh-bench-{name}-") as folder:
        process = MeshProcess(
            [sys.executable, "-m", "agentmesh_conversation_store"],
            Path(folder),
            environment={"AGENTMESH_LEASE_SECONDS": "3600", **environment},
        )
        await process.start()
        channels = MeshChannels("agent_runtime", ServiceSettings(data_dir=Path(folder)))
        store = Store(channels.channel(process.grpc_address, "conversation_store"))
        try:
            for runtime in store.runtimes:
                await runtime.connect()
            yield store
        finally:
            for runtime in store.runtimes:
                runtime.close()
            await channels.close()
            await process.sigterm()


_NEXT = """
SELECT tenant, run_id, fence FROM runs WHERE status = 1 AND runnable_at <= $1
ORDER BY runnable_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_TAKE = """
UPDATE runs SET status = 2, fence = $3, attempt = attempt + 1, lease_worker = $4, lease_until = $5,
    runnable_at = NULL WHERE tenant = $1 AND run_id = $2
"""


class BareQueue:
    """The same table with as many runs, and four connections."""

    def __init__(self, connections: Sequence[Any]) -> None:
        self._connections = connections

    async def drain(self) -> float:
        """Grants per second."""
        first = self._connections[0]
        await first.execute("UPDATE runs SET status = 1, runnable_at = started_at")
        await first.execute("VACUUM runs")
        began = time.perf_counter()
        taken = await asyncio.gather(*map(self._take_all, self._connections))
        assert sum(taken) == RUNS
        return RUNS / (time.perf_counter() - began)

    async def _take_all(self, connection: Any) -> int:
        count = 0
        while True:
            now = time.time_ns() // 1000
            async with connection.transaction():
                row = await connection.fetchrow(_NEXT, now)
                if row is None:
                    return count
                tenant, run_id, fence = row
                await connection.execute(_TAKE, tenant, run_id, fence + 1, "w", now + 5_000_000)
            count += 1


@asynccontextmanager
async def bare_queue(url: str) -> AsyncIterator[BareQueue]:
    """In a database of its own with the store's schema."""
    storage = PostgresStorage(url, ProtobufEvents())
    await storage.open()
    await asyncio.gather(*(storage.execute(_start(number)) for number in range(RUNS)))
    await storage.close()
    settings = {"agentmesh.tenants": "{*}"}
    connections = [await asyncpg.connect(url, server_settings=settings) for _ in range(RUNTIMES)]
    try:
        yield BareQueue(connections)
    finally:
        for connection in connections:
            await connection.close()


def _start(number: int) -> StartConversation:
    return StartConversation(
        tenant=f"tenant{number % TENANTS}",
        conversation_id=new_id("conv"),
        run_id=new_id("run"),
        message_id=new_id("msg"),
        facts=ConversationFacts(task="bench", agents=("writer",)),
        definition=("digest", b""),
        max_rounds=10,
        principal="bench",
        budget=Budget(),
        timeout=None,
        priority=0,
        human_input=False,
        traceparent="",
    )


@dataclass
class Samples:
    """Of one store, a value for each round."""

    grants: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    backlog: list[Latencies] = field(default_factory=list)
    alone: list[Latencies] = field(default_factory=list)

    async def take(self, store: Store, *, counts: bool) -> None:
        """One round."""
        granted, taken = await store.grant_all(), await store.take_all()
        waits = await store.one_by_one()
        if counts:
            self.grants.append(granted.rate)
            self.turns.append(taken.rate)
            self.backlog.append(Latencies.of([1000 * seconds for seconds in granted.grants]))
            self.alone.append(Latencies.of(waits))

    def summary(self) -> dict[str, Any]:
        """Medians."""
        return {
            "grants_per_second": round(statistics.median(self.grants), 1),
            "turns_per_second": round(statistics.median(self.turns), 1),
            "runnable_to_granted_ms": {
                "of_1000_waiting": Latencies.median(self.backlog).rounded(),
                "alone": Latencies.median(self.alone).rounded(),
            },
        }


async def measure(rounds: int) -> None:
    """Takes the rounds and reports them."""
    with PostgresServer() as server:
        environment = {"POSTGRES_URL": server.create_database(), "API_KEY_SECRET": "bench"}
        async with (
            running_store("postgres", environment) as ours,
            running_store("sqlite", {}) as embedded,
            bare_queue(server.create_database()) as queue,
        ):
            reference: list[float] = []
            postgres, sqlite = Samples(), Samples()
            for number in range(rounds + 1):
                rate = await queue.drain()
                counts = number > 0  # the first one warms up
                await postgres.take(ours, counts=counts)
                await sqlite.take(embedded, counts=counts)
                if counts:
                    reference.append(rate)
                    print(
                        f"round {number}: reference {rate:.0f}/s,"
                        f" postgres {postgres.grants[-1]:.0f}/s, sqlite {sqlite.grants[-1]:.0f}/s,"
                        f" load {os.getloadavg()[0]:.1f}",
                        flush=True,
                    )
    print(json.dumps({"postgres": postgres.summary()}))
    print(json.dumps({"sqlite": sqlite.summary()}))
    report(
        "lease",
        "grants/s",
        Rounds(postgres.grants, reference),
        reference_name=f"SKIP LOCKED and UPDATE by bare asyncpg, {RUNTIMES} connections",
        target=TARGET,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.rounds))


if __name__ == "__main__":
    main()
