"""Fills a log quickly: one turn whose steps record many events each, as a worker would."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

from agentmesh.conversation.v1 import event_pb2, message_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn_pb2
from agentmesh.conversation_store.v1.turn_service_pb2_grpc import TurnServiceStub
from meshkit.channels import call_metadata
from meshkit.context import SYSTEM

from bench.harness.store_and_gateway import StoreAndGateway

EVENTS_A_STEP = 500
LEASE = {"AGENTMESH_LEASE_SECONDS": "3600"}
"""Settings of a store that is filled: its worker renews nothing."""


async def filled(mesh: StoreAndGateway, events: int, content: str) -> str:
    """A conversation with that many events, nearly all of them messages of that content."""
    conversation_id = await mesh.start_conversation()
    turns: Any = TurnServiceStub(mesh.channel)
    left = asyncio.Event()

    async def requests() -> AsyncIterator[turn_pb2.LeaseTurnsRequest]:
        hello = turn_pb2.LeaseHello(worker_id="bench", max_turns=1)
        yield turn_pb2.LeaseTurnsRequest(hello=hello)
        await left.wait()

    lease = turns.LeaseTurns(requests(), metadata=call_metadata(SYSTEM))
    began = time.perf_counter()
    try:
        while (response := await lease.read()).WhichOneof("kind") != "grant":
            pass
        grant = response.grant
        missing = events - grant.head_sequence
        for number in range(0, missing, EVENTS_A_STEP):
            await _record(turns, grant, number, min(EVENTS_A_STEP, missing - number), content)
    finally:
        left.set()
        lease.cancel()
    print(f"{events} events written at {events / (time.perf_counter() - began):.0f}/s", flush=True)
    return conversation_id


async def _record(turns: Any, grant: Any, number: int, count: int, content: str) -> None:
    step: dict[str, Any] = {
        "run_id": grant.run.run_id,
        "turn": grant.turn,
        "step_key": f"writer/{number}",
        "request_digest": hashlib.sha256(str(number).encode()).digest(),
    }
    metadata = call_metadata(capability=grant.capability)
    begin = turn_pb2.BeginStepRequest(**step, kind=turn_pb2.STEP_KIND_MODEL, attempt_id="bench")
    await turns.BeginStep(begin, metadata=metadata)
    said = [
        event_pb2.Event(
            agent="writer",
            message=message_pb2.Message(
                message_id=f"msg_bench{number + index:012d}",
                role=message_pb2.MESSAGE_ROLE_AGENT,
                agent="writer",
                content=content,
            ),
        )
        for index in range(count)
    ]
    await turns.RecordStep(turn_pb2.RecordStepRequest(**step, events=said), metadata=metadata)
