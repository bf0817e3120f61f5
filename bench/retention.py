"""How long writers wait while histories are removed, at the worst.

Ours: eight writers that add messages to conversations of their own, 20 a second each, while a
conversation of 50,000 events is deleted and retention cuts another one of 10,000 events short.
Reference: the same writers for the same time on the same database, with nothing to remove. On
Postgres and on SQLite, with fsync and synchronous_commit on. The target bounds what the worst
writer waits longer than the worst one of the reference, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentmesh.conversation.v1 import event_pb2, message_pb2
from agentmesh_conversation_store.codec.events import ProtobufEvents, worker_event
from agentmesh_conversation_store.domain.conversations import (
    SendMessage,
    StartConversation,
)
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.history import DeleteConversation
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Checkpoint,
    ConversationFacts,
    RunStatus,
    Strategy,
)
from agentmesh_conversation_store.domain.turns import CommitTurn
from agentmesh_conversation_store.domain.updating import UpdateConversation
from agentmesh_conversation_store.domain.usage import Budget
from agentmesh_conversation_store.retention import Retention
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from meshkit.ids import new_id

from bench.harness.latencies import Latencies
from tests.support.databases import PostgresServer

WRITERS = 8
EVERY_SECONDS = 0.05
EVENTS = 50_000
EVENTS_TO_CUT = 10_000
EVENTS_A_TURN = 100
MOST_MILLISECONDS = 100.0
TEXT = "Words of an agent, as many as there often are in one message of it. " * 8
TENANT, FILLED = "acme", "filled"


class NoBlobs:
    """Nothing here refers to blobs."""

    async def collect(self, tenant: str, digests: Sequence[str]) -> int:
        """Nothing to do."""
        return 0


@dataclass
class World:
    """A database, its writers' conversations, and the waits of one round."""

    storage: Storage
    conversations: list[str] = field(default_factory=list)

    async def prepare(self) -> None:
        """Starts a conversation for each writer."""
        self.conversations = [await self._started(TENANT) for _ in range(WRITERS)]

    async def fill(self, events: int) -> str:
        """A conversation with that many events, a hundred in each turn."""
        name = await self._started(FILLED)
        for _ in range(events // EVENTS_A_TURN):
            (run,) = await self.storage.grant({"bench": 1}, 3600 * SECOND)
            checkpoint = Checkpoint(new_id("ckpt"), run.run_id, run.turn + 1, b"x" * 4096)
            commit = CommitTurn(
                FILLED,
                name,
                run.run_id,
                run.fence,
                run.turn + 1,
                {},
                RunStatus.RUNNABLE,
                checkpoint=checkpoint,
                events=[worker_event(_said()) for _ in range(EVENTS_A_TURN - 1)],
            )
            await self.storage.execute(commit)
        (run,) = await self.storage.grant({"bench": 1}, 3600 * SECOND)
        return name

    async def while_writing(self, work: Callable[[], Awaitable[None]]) -> list[float]:
        """How long each write took while `work` was done, in milliseconds."""
        done = asyncio.Event()
        waits: list[float] = []
        writers = [asyncio.create_task(self._write(n, waits, done)) for n in self.conversations]
        try:
            await work()
        finally:
            done.set()
            await asyncio.gather(*writers)
        return waits

    async def _write(self, name: str, waits: list[float], done: asyncio.Event) -> None:
        while not done.is_set():
            message = UserMessage(new_id("msg"), "user", "a message of a person", "bench")
            command = SendMessage(TENANT, name, message, Strategy.AFTER_TURN, new_id("run"), "")
            began = time.perf_counter()
            await self.storage.execute(command)
            waits.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(EVERY_SECONDS)

    async def _started(self, tenant: str) -> str:
        view = await self.storage.execute(_start(tenant))
        if tenant == TENANT:
            await self.storage.grant({"nobody": 1}, 3600 * SECOND)
        return view.conversation.conversation_id


def _said() -> event_pb2.Event:
    message = message_pb2.Message(
        message_id=new_id("msg"), role=message_pb2.MESSAGE_ROLE_AGENT, agent="writer", content=TEXT
    )
    return event_pb2.Event(agent="writer", message=message)


def _start(tenant: str) -> StartConversation:
    return StartConversation(
        tenant=tenant,
        conversation_id=new_id("conv"),
        run_id=new_id("run"),
        message_id=new_id("msg"),
        facts=ConversationFacts(task="bench", agents=("writer",)),
        definition=("digest", b""),
        max_rounds=1_000_000,
        principal="bench",
        budget=Budget(),
        timeout=None,
        priority=0,
        human_input=False,
        traceparent="",
    )


async def one_round(world: World, events: int) -> tuple[Latencies, Latencies, float]:
    """Waits with removal, waits without, and how many seconds each lasted."""
    retention = Retention(world.storage, NoBlobs(), look_seconds=3600, poll_seconds=3600)
    gone, short = await world.fill(events), await world.fill(min(events, EVENTS_TO_CUT))
    cut = UpdateConversation(FILLED, short, None, None, None, "", retention_events=100)
    await world.storage.execute(cut)

    async def remove() -> None:
        await world.storage.execute(DeleteConversation(FILLED, gone))
        await retention.apply()
        rows = await retention.remove_all()
        if rows < events:
            raise RuntimeError(f"only {rows} rows were removed")

    began = time.perf_counter()
    busy = await world.while_writing(remove)
    took = time.perf_counter() - began
    quiet = await world.while_writing(lambda: asyncio.sleep(took))
    await world.storage.execute(DeleteConversation(FILLED, short))
    await retention.remove_all()
    return Latencies.of(busy), Latencies.of(quiet), took


async def measure(rounds: int, events: int) -> None:
    """Takes the rounds and reports them."""
    taken: dict[str, list[tuple[Latencies, Latencies, float]]] = {"postgres": [], "sqlite": []}
    with PostgresServer() as server, tempfile.TemporaryDirectory() as folder:
        worlds = {
            "postgres": World(PostgresStorage(server.create_database(), ProtobufEvents())),
            "sqlite": World(SqliteStorage(Path(folder) / "store.sqlite3", ProtobufEvents())),
        }
        for world in worlds.values():
            await world.storage.open()
            await world.prepare()
        for number in range(1, rounds + 1):
            for name, world in worlds.items():
                busy, quiet, took = await one_round(world, events)
                taken[name].append((busy, quiet, took))
                print(
                    f"round {number}, {name}: removed in {took:.1f} s; the worst writer waited "
                    f"{busy.max:.1f} ms, without removal {quiet.max:.1f} ms",
                    flush=True,
                )
        for world in worlds.values():
            await world.storage.close()
    _report(taken)


def _report(taken: dict[str, list[tuple[Latencies, Latencies, float]]]) -> None:
    figures = {}
    for name, rounds in taken.items():
        ours, reference = [one[0] for one in rounds], [one[1] for one in rounds]
        figures[name] = {
            "ours": Latencies.median(ours).rounded(),
            "reference": Latencies.median(reference).rounded(),
            "worst": round(max(one.max for one in ours), 3),
            "longer": round(statistics.median(o.max - r.max for o, r, _ in rounds), 3),
            "ratio": round(statistics.median(o.max / r.max for o, r, _ in rounds), 3),
            "seconds": round(statistics.median(seconds for _, _, seconds in rounds), 1),
        }
    worse = max(figures.values(), key=lambda one: one["longer"])  # type: ignore[arg-type,return-value]  # numbers
    print(
        json.dumps(
            {
                "name": "retention",
                "unit": "ms",
                "ours": worse["ours"],
                "reference": worse["reference"],
                "reference_name": "the same writers with nothing to remove",
                "ratio": worse["ratio"],
                "longer": worse["longer"],
                "target": MOST_MILLISECONDS,
                "holds": all(one["longer"] <= MOST_MILLISECONDS for one in figures.values()),  # type: ignore[operator]  # numbers
                "rounds": len(next(iter(taken.values()))),
                **figures,
            }
        ),
        flush=True,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=EVENTS)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.rounds, arguments.events))


if __name__ == "__main__":
    main()
