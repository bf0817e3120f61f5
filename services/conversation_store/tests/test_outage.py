"""A database that goes away for longer than a lease, and what becomes of those who hold one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from services.conversation_store.tests.driver import LeasedWorker, RunningStore
from services.conversation_store.tests.support import PATIENCE
from tests.support.databases import PostgresServer, ProgramMissingError


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of our own to hurt."""
    try:
        made = PostgresServer()
    except ProgramMissingError as error:
        pytest.skip(str(error))
    with made:
        yield made


@pytest_asyncio.fixture
async def store(tmp_path: Path, server: PostgresServer) -> AsyncIterator[RunningStore]:
    """A store on it whose database calls give up soon."""
    url = await asyncio.to_thread(server.create_database)
    running = await RunningStore.start(
        tmp_path,
        postgres_url=SecretStr(url),
        api_key_secret=SecretStr("pepper"),
        postgres_timeout_seconds=10.0,
        lease_seconds=2.0,
    )
    yield running
    await running.stop()


async def _away(server: PostgresServer, how: str, seconds: float) -> None:
    """The database does not answer for this long: it hangs, or it died."""
    if how == "hangs":
        await asyncio.to_thread(server.pause)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.resume)
    else:
        await asyncio.to_thread(server.sigkill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)


async def _past_start(store: RunningStore) -> None:
    """Until the grace after the start is over."""
    await asyncio.sleep(1.5 * store.settings.lease_seconds)


def _stream_lives(worker: LeasedWorker) -> bool:
    return not worker._tasks[0].done()


@pytest.mark.parametrize("how", ["hangs", "died"])
async def test_a_live_worker_keeps_its_run_and_its_stream(
    store: RunningStore, server: PostgresServer, how: str
) -> None:
    worker = await store.worker(max_turns=1)
    await store.start_conversation()
    turn = await worker.granted()
    await turn.begin()
    await _past_start(store)
    rival = await store.worker()
    await _away(server, how, 3 * store.settings.lease_seconds)
    await asyncio.sleep(3 * store.settings.lease_seconds)
    assert _stream_lives(worker)
    assert worker.revoked.empty()
    assert rival.grants.empty()
    await _insist(lambda: turn.record(content="after the outage"))
    await _insist(lambda: turn.commit("COMPLETED"))
    await store.start_conversation()
    await asyncio.wait_for(_first(worker, rival), PATIENCE)


async def _insist(call: Any) -> Any:
    """As runtimes do: the first call may meet a connection that is dead already."""
    while True:
        try:
            return await call()
        except Exception as error:
            if "UNAVAILABLE" not in str(error):
                raise
            await asyncio.sleep(0.05)


async def _first(*workers: LeasedWorker) -> None:
    getting = [asyncio.ensure_future(worker.grants.get()) for worker in workers]
    _, waiting = await asyncio.wait(getting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def test_a_worker_that_died_in_the_outage_loses_its_run_after_the_grace(
    store: RunningStore, server: PostgresServer
) -> None:
    worker = await store.worker(max_turns=1)
    await store.start_conversation()
    turn = await worker.granted()
    await _past_start(store)
    rival = await store.worker()
    await asyncio.to_thread(server.sigkill)
    await worker.leave()
    await asyncio.sleep(store.settings.lease_seconds)
    await asyncio.to_thread(server.start)
    again = await rival.granted()
    assert again.run_id == turn.run_id
    assert again.grant.fence > turn.grant.fence


async def test_a_worker_may_come_back_while_the_database_is_away(
    store: RunningStore, server: PostgresServer
) -> None:
    """Its places stay taken by what it says it holds, so that it gets no more than it can take."""
    worker = await store.worker(max_turns=1)
    await store.start_conversation()
    turn = await worker.granted()
    await _past_start(store)
    await asyncio.to_thread(server.sigkill)
    await worker.leave()
    back = await store.worker(1, worker.worker_id, held=list(worker.held.items()))
    await asyncio.sleep(store.settings.lease_seconds)
    await asyncio.to_thread(server.start)
    await _insist(lambda: store.start_conversation())
    await asyncio.sleep(2 * store.settings.lease_seconds)
    assert _stream_lives(back)
    assert back.grants.empty()
    assert back.revoked.empty()
    turn.store = store
    await _insist(lambda: turn.commit("COMPLETED"))
    await back.granted()
