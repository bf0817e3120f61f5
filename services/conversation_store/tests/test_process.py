"""The store as a process that is killed: what it acknowledged stays, and work goes on."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest_asyncio
from agentmesh_conversation_store.settings import StoreSettings
from meshkit.testkit import MeshProcess

from services.conversation_store.tests.driver import (
    LeasedWorker,
    Reader,
    StoreClient,
    Turn,
)
from services.conversation_store.tests.support import dense


@pytest_asyncio.fixture
async def process(tmp_path: Path) -> AsyncIterator[MeshProcess]:
    """A store in a process of its own."""
    command = [sys.executable, "-m", "agentmesh_conversation_store"]
    started = MeshProcess(command, tmp_path)
    await started.start()
    yield started
    await started.close()


def _client(process: MeshProcess, tmp_path: Path) -> StoreClient:
    return StoreClient.to(process.grpc_address, tmp_path / "client")


async def test_a_killed_store_keeps_what_it_acknowledged(
    process: MeshProcess, tmp_path: Path
) -> None:
    client = _client(process, tmp_path)
    conversation = await client.start_conversation()
    cid = conversation.conversation_id
    acknowledged: list[tuple[int, str]] = []

    async def write(writer: int) -> None:
        for number in range(10_000):
            content = f"{writer}/{number}"
            try:
                sent = await client.send(cid, content)
            except grpc.aio.AioRpcError:
                return
            acknowledged.append((sent.sequence, content))

    writers = [asyncio.create_task(write(writer)) for writer in range(8)]
    while len(acknowledged) < 100:
        await asyncio.sleep(0.01)
    await process.sigkill()
    await asyncio.gather(*writers)
    await client.close()
    await process.start()
    client = _client(process, tmp_path)
    log = await client.log(cid)
    assert dense(log)
    written = {event.sequence: event.message.content for event in log}
    assert all(written[sequence] == content for sequence, content in acknowledged)
    contents = [event.message.content for event in log[3:]]
    assert len(contents) == len(set(contents))
    await client.close()


async def test_a_worker_and_a_reader_go_on_after_the_store_was_killed(
    process: MeshProcess, tmp_path: Path
) -> None:
    client = _client(process, tmp_path)
    worker = await client.worker()
    conversation = await client.start_conversation()
    cid = conversation.conversation_id
    turn = await worker.granted()
    await turn.begin()
    await turn.record(content="before")
    reader = Reader(client.subscribe(cid))
    await reader.until(lambda r: len(r.events) == 4)
    await process.sigkill()
    await client.close()
    await process.start()
    client = _client(process, tmp_path)
    back = LeasedWorker(client, worker.worker_id, 4, held=list(worker.held.items()))
    client.workers.append(back)
    await back.connect()
    same = Turn(client, turn.grant)
    assert (await same.begin()).step.result == b"before"
    await same.commit("COMPLETED")
    rest = Reader(client.subscribe(cid, resume_token=reader.items[-1].resume_token, until=3))
    await rest.ended()
    assert rest.sequences == [5, 6]
    await client.close()


async def test_a_database_that_cannot_be_served_is_one_line_for_the_operator(
    tmp_path: Path,
) -> None:
    settings = StoreSettings(data_dir=tmp_path)
    settings.database_file.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(settings.database_file) as newer:
        newer.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
        newer.execute("INSERT INTO schema_version VALUES (999)")
    newer.close()
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agentmesh_conversation_store",
        env={**os.environ, "AGENTMESH_DATA_DIR": str(tmp_path), "AGENTMESH_GRPC_PORT": "0"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await started.communicate()
    assert started.returncode == 2
    assert b"Traceback" not in told
    assert told.splitlines()[-1].startswith(b"error: the database has schema 999")
