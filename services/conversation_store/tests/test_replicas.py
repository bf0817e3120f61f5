"""Several replicas of the store on one Postgres and one Redis."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentmesh.conversation_store.v1 import turn_service_pb2
from meshkit.testkit import MeshProcess
from pydantic import SecretStr

from services.conversation_store.tests.driver import Reader, RunningStore, StoreClient, Turn
from services.conversation_store.tests.support import PATIENCE, dense
from tests.support.databases import PostgresServer, ProgramMissingError, RedisServer

# So rarely that a test which relies on it fails.
NEVER = 60.0
PEPPER = "pepper"

StartReplica = Callable[..., Awaitable[RunningStore]]


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that may be killed."""
    yield from _own(RedisServer)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that may be killed."""
    yield from _own(PostgresServer)


def _own(kind: type[Any]) -> Iterator[Any]:
    try:
        server = kind()
    except ProgramMissingError as error:
        pytest.skip(str(error))
    yield server
    server.close()


@pytest_asyncio.fixture
async def replica(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[StartReplica]:
    """Starts replicas on one database; what notices do is not done by looking at the heads."""
    started: list[RunningStore] = []
    secret = "one-secret-for-all-replicas"

    async def start(redis_url: str, postgres_url: str, **overrides: Any) -> RunningStore:
        values: dict[str, Any] = {
            "postgres_url": SecretStr(postgres_url),
            "redis_url": SecretStr(redis_url),
            "redis_prefix": request.node.name,
            "api_key_secret": SecretStr(PEPPER),
            "internal_secret": SecretStr(secret),
            "head_check_seconds": NEVER,
        }
        folder = tmp_path / str(len(started))
        started.append(await RunningStore.start(folder, **(values | overrides)))
        return started[-1]

    yield start
    for store in started:
        await store.stop()


async def _begun(store: RunningStore) -> tuple[str, Turn]:
    worker = await store.worker()
    conversation = await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    return conversation.conversation_id, turn


def _text(reader: Reader) -> str:
    return "".join(delta.text for delta in reader.deltas)


async def _following(store: RunningStore, conversation_id: str, count: int) -> Reader:
    """A reader that has `count` events, on a replica that hears of the next ones."""
    reader = Reader(store.subscribe(conversation_id))
    await reader.until(lambda r: len(r.events) == count)
    return reader


async def test_events_and_text_cross_replicas(
    redis_url: str, postgres_url: str, replica: StartReplica
) -> None:
    one, two = [await replica(redis_url, postgres_url) for _ in range(2)]
    cid, turn = await _begun(one)
    reader = await _following(two, cid, 3)
    for index in range(50):
        await turn.publish(turn.delta(index, f"{index} "))
    whole = "".join(f"{index} " for index in range(50))
    await reader.until(lambda r: _text(r) == whole)
    await turn.record(content=whole)
    for number in range(20):
        await (one, two)[number % 2].send(cid, str(number))
    await turn.commit("WAITING")
    log = await one.log(cid)
    await reader.until(lambda r: len(r.events) == len(log))
    assert reader.events == log
    assert dense(log)
    assert _text(reader) == whole
    assert not any(item.HasField("discard") for item in reader.items)
    reader.stop()


async def test_who_comes_late_on_another_replica_gets_the_text_so_far(
    redis_url: str, postgres_url: str, replica: StartReplica
) -> None:
    one, two = [await replica(redis_url, postgres_url) for _ in range(2)]
    cid, turn = await _begun(one)
    for index in range(100):
        await turn.publish(turn.delta(index, f"{index} "))
    going_on = asyncio.create_task(_write(turn, range(100, 300)))
    reader = Reader(two.subscribe(cid))
    whole = "".join(f"{index} " for index in range(300))
    await reader.until(lambda r: len(_text(r)) >= len(whole))
    await going_on
    assert _text(reader) == whole
    assert reader.deltas[0].first_index == 0
    # Nothing is kept for it once it is finished elsewhere.
    reader.stop()
    await turn.record(content=whole)
    late = Reader(two.subscribe(cid))
    await late.until(lambda r: len(r.events) == 4)
    await two.send(cid)
    await late.until(lambda r: len(r.events) == 5)
    assert not late.deltas
    late.stop()


async def _write(turn: Turn, indices: range) -> None:
    for index in indices:
        await turn.publish(turn.delta(index, f"{index} "))


async def test_text_whose_beginning_nobody_has_is_shown_after_a_while(
    redis_url: str, postgres_url: str, replica: StartReplica
) -> None:
    one, two = [await replica(redis_url, postgres_url, head_check_seconds=0.1) for _ in range(2)]
    cid, turn = await _begun(one)
    reader = await _following(two, cid, 3)
    await turn.publish(turn.delta(7, "seven "), turn.delta(8, "eight"))
    await reader.until(lambda r: _text(r) == "seven eight")
    reader.stop()


async def test_a_killed_redis_loses_no_event_and_text_goes_on(
    own_redis: RedisServer, postgres_url: str, replica: StartReplica
) -> None:
    # Redis is down at the start, too.
    url = own_redis.url
    one, two = [await replica(url, postgres_url, head_check_seconds=0.1) for _ in range(2)]
    cid, turn = await _begun(one)
    reader = await _following(two, cid, 3)
    await turn.publish(turn.delta(0, "nobody hears this yet "))
    await one.send(cid, "without Redis")
    await reader.until(lambda r: len(r.events) == 4)
    await asyncio.to_thread(own_redis.start)
    await reader.until(lambda r: _text(r) == "nobody hears this yet ")
    expected = _text(reader)
    for number in range(3):
        await asyncio.to_thread(own_redis.sigkill)
        await one.send(cid, f"while it is away {number}")
        await turn.publish(turn.delta(1 + 2 * number, "lost and found "))
        await reader.until(lambda r, n=number: len(r.events) == 5 + 2 * n)  # type: ignore[misc]  # bound now
        await asyncio.to_thread(own_redis.start)
        await turn.publish(turn.delta(2 + 2 * number, "after "))
        expected += "lost and found after "
        await reader.until(lambda r, text=expected: _text(r) == text)  # type: ignore[misc]  # bound now
        await two.send(cid, f"and back {number}")
    await asyncio.to_thread(own_redis.flush)
    await turn.record(content=expected)
    log = await one.log(cid)
    await reader.until(lambda r: len(r.events) == len(log))
    assert reader.events == log
    assert dense(log)
    reader.stop()


async def test_fences_are_heard_on_every_replica_at_once(
    redis_url: str, postgres_url: str, replica: StartReplica
) -> None:
    one, two = [await replica(redis_url, postgres_url) for _ in range(2)]
    await _replicas_hear_each_other(one, two)
    worker = await one.worker()
    conversation = await one.start_conversation()
    turn = await worker.granted()
    watch = two.turns.WatchFences(turn_service_pb2.WatchFencesRequest(worker_id="tools"))
    assert turn.run_id not in {raised.run_id for raised in (await watch.read()).raised}
    await two.cancel(conversation.conversation_id)
    lost = await worker.lost()
    assert (lost.run_id, lost.current_fence) == (turn.run_id, turn.grant.fence + 1)
    (raised,) = (await asyncio.wait_for(watch.read(), PATIENCE)).raised
    assert (raised.run_id, raised.current_fence) == (turn.run_id, turn.grant.fence + 1)
    again = await one.start_conversation()
    turn = await worker.granted()
    await one.cancel(again.conversation_id)
    (raised,) = (await asyncio.wait_for(watch.read(), PATIENCE)).raised
    assert raised.run_id == turn.run_id
    watch.cancel()


async def test_fences_are_heard_without_redis_a_little_later(
    own_redis: RedisServer, postgres_url: str, replica: StartReplica
) -> None:
    url = own_redis.url
    one, two = [await replica(url, postgres_url, head_check_seconds=0.1) for _ in range(2)]
    watch = two.turns.WatchFences(turn_service_pb2.WatchFencesRequest(worker_id="tools"))
    await watch.read()
    _, turn = await _begun(one)
    await one.cancel(turn.grant.run.conversation_id)
    (raised,) = (await asyncio.wait_for(watch.read(), PATIENCE)).raised
    assert raised.run_id == turn.run_id
    watch.cancel()


async def test_work_begun_on_one_replica_wakes_the_others(
    redis_url: str, postgres_url: str, replica: StartReplica
) -> None:
    one, two = [
        await replica(redis_url, postgres_url, lease_poll_seconds=NEVER, lease_seconds=NEVER)
        for _ in range(2)
    ]
    await _replicas_hear_each_other(one, two)
    worker = await two.worker(max_turns=1)
    for _ in range(3):
        conversation = await one.start_conversation()
        turn = await worker.granted()
        assert turn.grant.run.conversation_id == conversation.conversation_id
        # Committed on the other replica, it frees the place here.
        elsewhere = Turn(one, turn.grant)
        await elsewhere.take("COMPLETED")


async def _replicas_hear_each_other(one: RunningStore, two: RunningStore) -> None:
    """Returns when notices pass, both ways."""
    conversation = await one.start_conversation(human_input=True)
    cid = conversation.conversation_id
    readers = [Reader(one.subscribe(cid)), Reader(two.subscribe(cid))]
    for count, store in ((4, one), (5, two)):
        await store.send(cid)
        for reader in readers:
            await reader.until(lambda r, n=count: len(r.events) == n)  # type: ignore[misc]  # bound now
    for reader in readers:
        reader.stop()
    await one.cancel(cid)


async def test_subscribers_outlive_their_database(
    own_postgres: PostgresServer,
    redis_url: str,
    replica: StartReplica,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    await asyncio.to_thread(own_postgres.start)
    url = own_postgres.create_database()
    one, two = [
        await replica(redis_url, url, head_check_seconds=0.1, heartbeat_seconds=0.2)
        for _ in range(2)
    ]
    conversation = await one.start_conversation()
    cid = conversation.conversation_id
    readers = [await _following(store, cid, 3) for store in (one, two, two)]
    for number in range(2):
        await asyncio.to_thread(own_postgres.sigkill)
        seen = [len(reader.items) for reader in readers]
        for reader, count in zip(readers, seen, strict=True):
            await reader.until(lambda r, n=count: len(r.items) >= n + 5)  # type: ignore[misc]  # bound now
            assert reader.items[-1].heartbeat.delivered_through == 3 + number
        await asyncio.to_thread(own_postgres.start)
        await _sent(one, cid, f"request-{number}")
        for reader in readers:
            await reader.until(lambda r, n=number: len(r.events) == 4 + n)  # type: ignore[misc]  # bound now
        # One of them may have heard of the event from the other before it asked the database.
        await _until(lambda n=number: _said(caplog, "from the database again") == 2 * (n + 1))  # type: ignore[misc]  # bound now
    log = await two.log(cid)
    assert all(reader.events == log for reader in readers)
    times = [i.heartbeat.time.ToNanoseconds() for i in readers[0].items if i.HasField("heartbeat")]
    assert times == sorted(times)
    # Each of two replicas, once for each of two outages.
    assert _said(caplog, "wait for the database") == 4
    for reader in readers:
        reader.stop()


def _said(caplog: pytest.LogCaptureFixture, words: str) -> int:
    """How often something was logged."""
    return sum(words in record.getMessage() for record in caplog.records)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


async def _sent(store: RunningStore, conversation_id: str, request_id: str) -> None:
    """Says something as soon as the database takes it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.send(conversation_id, request_id=request_id)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)
            else:
                return


async def test_two_processes_and_one_of_them_killed(
    redis_url: str, postgres_url: str, tmp_path: Path
) -> None:
    environment = {
        "POSTGRES_URL": postgres_url,
        "REDIS_URL": redis_url,
        "AGENTMESH_REDIS_PREFIX": "two-processes",
        "API_KEY_SECRET": PEPPER,
    }
    command = [sys.executable, "-m", "agentmesh_conversation_store"]
    processes = [MeshProcess(command, tmp_path / name, environment) for name in ("a", "b")]
    await asyncio.gather(*(process.start() for process in processes))
    one, two = (
        StoreClient.to(process.grpc_address, tmp_path / f"client{number}")
        for number, process in enumerate(processes)
    )
    worker = await one.worker()
    conversation = await two.start_conversation()
    cid = conversation.conversation_id
    turn = await worker.granted()
    await turn.begin()
    await turn.publish(turn.delta(0, "so far, "))
    reader = Reader(two.subscribe(cid))
    await reader.until(lambda r: _text(r) == "so far, ")
    await turn.publish(turn.delta(1, "so good"))
    await reader.until(lambda r: _text(r) == "so far, so good")
    await turn.record(content="so far, so good")
    sending = [asyncio.create_task(one.send(cid, str(number))) for number in range(50)]
    await processes[0].sigkill()
    await asyncio.gather(*sending, return_exceptions=True)
    log = await two.log(cid)
    await reader.until(lambda r: len(r.events) == len(log))
    assert reader.events == log
    assert dense(log)
    reader.stop()
    for client in (one, two):
        await client.close()
    for process in processes:
        await process.close()
