"""A disk that is full for longer than a lease: nothing is lost, and nobody loses what he holds."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest_asyncio
from meshkit.testkit import MeshProcess, raises_rich

from services.conversation_store.tests.driver import StoreClient
from services.conversation_store.tests.support import dense

LEASE_SECONDS = 1.0
RENEW_SECONDS = 0.2
FILE_BYTES = 256 * 1024
"""The write-ahead log is longer than that before the disk is full, the process's own log is not."""


@pytest_asyncio.fixture
async def process(tmp_path: Path) -> AsyncIterator[MeshProcess]:
    """A store in a process of its own, on SQLite, with short leases."""
    environment = {
        "AGENTMESH_LEASE_SECONDS": str(LEASE_SECONDS),
        "AGENTMESH_LEASE_RENEW_SECONDS": str(RENEW_SECONDS),
        "AGENTMESH_LEASE_HAND_OVER_SECONDS": "0.1",
        "AGENTMESH_SWEEP_SECONDS": "0.02",
    }
    command = [sys.executable, "-m", "agentmesh_conversation_store"]
    async with MeshProcess(command, tmp_path, environment) as started:
        yield started


@contextmanager
def no_room(process: MeshProcess) -> Iterator[None]:
    """Its files cannot grow meanwhile."""
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FILE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)


async def test_a_worker_keeps_its_run_and_its_stream(process: MeshProcess, tmp_path: Path) -> None:
    client = StoreClient.to(process.grpc_address, tmp_path / "client")
    client.settings = client.settings.model_copy(update={"lease_renew_seconds": RENEW_SECONDS})
    conversation_id = (await client.start_conversation()).conversation_id
    worker = await client.worker(max_turns=1)
    turn = await worker.granted()
    await turn.begin()
    for _ in range(30):
        await client.send(conversation_id, "x" * 20_000)
    await asyncio.sleep(1.5 * LEASE_SECONDS)  # the grace after the start is over
    before = await client.log(conversation_id)
    with no_room(process):
        with raises_rich(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL") as refused:
            await client.send(conversation_id, "one too many")
        assert refused.error.retry_after is not None
        await asyncio.sleep(3 * LEASE_SECONDS)
        assert await client.log(conversation_id) == before
    await asyncio.sleep(3 * LEASE_SECONDS)
    assert not worker._tasks[0].done()
    assert worker.revoked.empty()
    await turn.record(content="after all")
    await turn.commit("RUNNABLE", last_input_sequence=before[-1].sequence)
    log = await client.log(conversation_id)
    assert dense(log)
    assert log[: len(before)] == before
    await worker.leave()
    await client.close()
