"""The audit log of stores that are killed and that seal at once: nothing acknowledged is missing,
and verification beside them finds nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb
from agentmesh.conversation_store.v1.ledger_service_pb2_grpc import LedgerServiceStub
from agentmesh_conversation_store.auditing import verify_tenant
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.audit_keys import AuditKeys
from agentmesh_conversation_store.domain.ledger import AuditQuery
from agentmesh_conversation_store.sealing import sealing_keys
from agentmesh_conversation_store.settings import StoreSettings
from agentmesh_conversation_store.storage.chosen import chosen_storage
from meshkit.channels import call_metadata
from meshkit.identity import SYSTEM
from meshkit.testkit import MeshProcess

from services.conversation_store.tests.driver import StoreClient

PATIENCE = 60.0
KILLS = 2
BETWEEN_KILLS = 10


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_records_survive_their_stores(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    environment = {"AGENTMESH_AUDIT_SEAL_SECONDS": "0.02", "API_KEY_SECRET": "pepper"}
    values: dict[str, Any] = {"data_dir": tmp_path / "0" / "data", "api_key_secret": "pepper"}
    if kind == "postgres":
        url = request.getfixturevalue("postgres_url")
        environment["POSTGRES_URL"] = values["postgres_url"] = url
    command = [sys.executable, "-m", "agentmesh_conversation_store"]
    count = 2 if kind == "postgres" else 1
    stores = [MeshProcess(command, tmp_path / str(place), environment) for place in range(count)]
    await asyncio.gather(*(store.start() for store in stores))
    settings = StoreSettings(**values)
    keys = AuditKeys(sealing_keys(settings))
    reader = chosen_storage(settings, ProtobufEvents(), keys)
    await reader.open()
    acknowledged: list[str] = []
    over = asyncio.Event()

    async def write(store: MeshProcess, place: int) -> None:
        number = 0
        while not over.is_set():
            client = StoreClient.to(store.grpc_address, tmp_path / f"client-{place}")
            with contextlib.suppress(grpc.aio.AioRpcError):
                while not over.is_set():
                    number += 1
                    name = f"{place}-{number}"
                    record = pb.AuditRecord(record_id=name, tenant="acme", code="OK")
                    batch = pb.AppendAuditRequest(batch_id=name, records=[record])
                    metadata = call_metadata(SYSTEM)
                    stub: Any = LedgerServiceStub(client.channel)
                    await stub.AppendAudit(batch, metadata=metadata, timeout=PATIENCE)
                    acknowledged.append(name)
            await client.close()
            await asyncio.sleep(0.02)

    async def watch() -> None:
        while not over.is_set():
            found = await verify_tenant(reader, "acme", keys)
            assert found.problem is None

    writers = [asyncio.create_task(write(store, place)) for place, store in enumerate(stores)]
    watcher = asyncio.create_task(watch())
    async with asyncio.timeout(PATIENCE * 2):
        for _ in range(KILLS):
            wanted = len(acknowledged) + BETWEEN_KILLS
            while len(acknowledged) < wanted and not watcher.done():
                await asyncio.sleep(0.01)
            await stores[0].sigkill()
            await stores[0].start()
        over.set()
        await asyncio.gather(*writers, watcher)
        while (found := await verify_tenant(reader, "acme", keys)).unsealed:
            await asyncio.sleep(0.05)
    assert found.problem is None
    listed = await reader.list_audit("acme", AuditQuery(10_000))
    names = [one.record_id for one in listed]
    assert set(acknowledged) <= set(names)
    assert found.records == len(names)
    assert sorted(one.sequence for one in listed) == list(range(1, len(names) + 1))
    await reader.close()
    await asyncio.gather(*(store.close() for store in stores))
