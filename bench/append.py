"""How fast the log grows: messages from 64 callers at once to 64 conversations.

Ours: SendMessage over gRPC to a store process on Postgres, and to one on SQLite beside it; each
answer means that the event is on disk. Reference: bare asyncpg with 64 connections that writes
the same rows of the same tables, a transaction for each message: the conversation, its run, the
event and the inbox. It reads nothing, decides nothing, and tells nobody. fsync and
synchronous_commit are on.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
from agentmesh.catalog.v1 import agent_pb2, team_pb2
from agentmesh.conversation_store.v1 import (
    conversation_store_service_pb2,
    conversation_store_service_pb2_grpc,
)
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.conversations import StartConversation
from agentmesh_conversation_store.domain.model import ConversationFacts, ConversationView
from agentmesh_conversation_store.domain.usage import Budget
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.postgres.driver import translated
from agentmesh_conversation_store.storage.sql.tables import CONVERSATIONS, RUNS
from meshkit.channels import MeshChannels, call_metadata
from meshkit.identity import Principal
from meshkit.ids import new_id
from meshkit.settings import ServiceSettings
from meshkit.testkit import MeshProcess

from bench.harness.rounds import Rounds, Target, report
from tests.support.databases import PostgresServer

CALLERS = 64
MESSAGES = 2000
TEXT = "A message of a person, as long as such messages are. " * 4
TARGET = Target("at least", 0.6)
SOMEBODY = Principal("bench", "acme", 2)

Sample = Callable[[int], Awaitable[float]]


@dataclass(frozen=True)
class RunningStore:
    """A store process with conversations to write to."""

    stub: conversation_store_service_pb2_grpc.ConversationStoreServiceAsyncStub
    conversations: Sequence[str]

    async def append(self, messages: int) -> float:
        """Events per second."""
        numbers = itertools.count()

        async def call(conversation_id: str) -> None:
            request = conversation_store_service_pb2.SendMessageRequest(
                conversation_id=conversation_id, content=TEXT
            )
            while next(numbers) < messages:
                await self.stub.SendMessage(request, metadata=call_metadata(SOMEBODY))

        began = time.perf_counter()
        await asyncio.gather(*map(call, self.conversations))
        return messages / (time.perf_counter() - began)


@asynccontextmanager
async def running_store(name: str, environment: dict[str, str]) -> AsyncIterator[RunningStore]:
    """A store on the database that `environment` names."""
    with tempfile.TemporaryDirectory(prefix=f"agentmesh-bench-{name}-") as folder:
        process = MeshProcess(
            [sys.executable, "-m", "agentmesh_conversation_store"],
            Path(folder),
            environment={"AGENTMESH_LEASE_SECONDS": "3600", **environment},
        )
        await process.start()
        channels = MeshChannels("gateway", ServiceSettings(data_dir=Path(folder)))
        channel = channels.channel(process.grpc_address, "conversation_store")
        stub: Any = conversation_store_service_pb2_grpc.ConversationStoreServiceStub(channel)
        try:
            conversations = [await _started(stub) for _ in range(CALLERS)]
            yield RunningStore(stub, conversations)
        finally:
            await channels.close()
            await process.sigterm()


async def _started(stub: Any) -> str:
    definition = team_pb2.TeamDefinition(
        id="solo",
        kind=team_pb2.TEAM_KIND_SINGLE,
        participants=[
            team_pb2.Participant(agent=agent_pb2.AgentDefinition(id="writer", role="writes"))
        ],
    )
    request = conversation_store_service_pb2.StartConversationRequest(
        task="bench", definition=definition, agents=["writer"], max_rounds=10
    )
    response = await stub.StartConversation(request, metadata=call_metadata(SOMEBODY))
    return str(response.conversation.conversation_id)


class BareRows:
    """The rows of a message, written by one connection for one conversation."""

    def __init__(self, connection: Any, view: ConversationView, event: bytes) -> None:
        self._connection = connection
        self._conversation = view.conversation
        self._run = view.run
        self._event = event

    async def write(self) -> None:
        """One transaction."""
        self._conversation = replace(
            self._conversation, head_sequence=self._conversation.head_sequence + 1
        )
        sequence = self._conversation.head_sequence
        self._run = replace(self._run, inbox_head=sequence)
        tenant, conversation_id = self._conversation.tenant, self._conversation.conversation_id
        run_id = self._run.run_id
        execute = self._connection.execute
        async with self._connection.transaction():
            await execute(translated(CONVERSATIONS.put), *CONVERSATIONS.row(self._conversation))
            await execute(translated(RUNS.put), *RUNS.row(self._run))
            await execute(_INPUT, tenant, run_id, sequence, conversation_id)
            await execute(
                _EVENT, tenant, conversation_id, sequence, run_id, new_id("msg"), self._event
            )


_INPUT = "INSERT INTO inputs (tenant, run_id, sequence, conversation_id) VALUES ($1, $2, $3, $4)"
# Its place in the tenant's feed is made up: to count it would make these writers wait in line.
_EVENT = """
INSERT INTO events (tenant, conversation_id, sequence, kind, run_id, agent, message_id, turn, data,
                    feed_position)
VALUES ($1, $2, $3, 'message', $4, 'user', $5, 0, $6, -nextval('made_up'))
"""


@asynccontextmanager
async def bare_rows(url: str) -> AsyncIterator[Sequence[BareRows]]:
    """64 connections to the store's schema, each with a conversation of its own."""
    storage = PostgresStorage(url, ProtobufEvents())
    await storage.open()
    views = [await storage.execute(_start()) for _ in range(CALLERS)]
    (event,) = await storage.events("acme", views[0].conversation.conversation_id, 2, 1, 1)
    await storage.close()
    data = event.data + TEXT.encode()
    settings = {"agentmesh.tenants": "{*}"}
    connections = [await asyncpg.connect(url, server_settings=settings) for _ in range(CALLERS)]
    await connections[0].execute("CREATE SEQUENCE made_up")
    try:
        yield [BareRows(c, view, data) for c, view in zip(connections, views, strict=True)]
    finally:
        for connection in connections:
            await connection.close()


def _start() -> StartConversation:
    return StartConversation(
        tenant="acme",
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


async def bare(rows: Sequence[BareRows], messages: int) -> float:
    """Events per second."""
    numbers = itertools.count()

    async def write(row: BareRows) -> None:
        while next(numbers) < messages:
            await row.write()

    began = time.perf_counter()
    await asyncio.gather(*map(write, rows))
    return messages / (time.perf_counter() - began)


async def measure(rounds: int, messages: int) -> None:
    """Takes the rounds and reports them."""
    with PostgresServer() as server:
        url, bare_url = server.create_database(), server.create_database()
        environment = {"POSTGRES_URL": url, "API_KEY_SECRET": "bench"}
        async with (
            running_store("postgres", environment) as ours,
            running_store("sqlite", {}) as embedded,
            bare_rows(bare_url) as rows,
        ):
            samples: dict[str, list[float]] = {"reference": [], "postgres": [], "sqlite": []}
            for number in range(rounds + 1):
                taken = {
                    "reference": await bare(rows, messages),
                    "postgres": await ours.append(messages),
                    "sqlite": await embedded.append(messages),
                }
                if number:  # the first one warms up
                    for name, rate in taken.items():
                        samples[name].append(rate)
                    told = ", ".join(f"{name} {rate:.0f}/s" for name, rate in taken.items())
                    print(f"round {number}: {told}", flush=True)
    sqlite = statistics.median(samples["sqlite"])
    print(json.dumps({"sqlite_events_per_second": round(sqlite, 1)}))
    report(
        "append",
        "events/s",
        Rounds(samples["postgres"], samples["reference"]),
        reference_name=f"the same rows by bare asyncpg, {CALLERS} connections",
        target=TARGET,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=MESSAGES)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.rounds, arguments.messages))


if __name__ == "__main__":
    main()
