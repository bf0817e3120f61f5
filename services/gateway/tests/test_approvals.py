"""What waits for a person: asked by a worker, listed and decided over both edges."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn_pb2
from agentmesh.conversation_store.v1.turn_service_pb2_grpc import TurnServiceStub
from agentmesh.gateway.v1 import approval_service_pb2 as pb2
from agentmesh.gateway.v1.approval_service_pb2_grpc import ApprovalServiceStub
from google.protobuf.timestamp_pb2 import Timestamp
from meshkit.channels import call_metadata
from meshkit.testkit import HostFactory, MeshProcess, raises_rich

from .conftest import Gateway, Gateways
from .front import reason
from .mesh_behind import publish_definitions, start_runtime, store_process

CALL = message_pb2.ToolCallPart(
    tool_call_id="call_1", tool="code_executor", arguments_json='{"code": "1"}'
)


class Worker:
    """A runtime by hand whose only turn asks a person."""

    def __init__(self, hosts: HostFactory, store: MeshProcess) -> None:
        channel = hosts.channels("agent_runtime").channel(store.grpc_address, "conversation_store")
        self._turns: Any = TurnServiceStub(channel)
        self._call: Any = None

    async def granted(self) -> turn_pb2.TurnGrant:
        """The next grant."""
        if self._call is None:
            self._call = self._turns.LeaseTurns()
            hello = turn_pb2.LeaseHello(worker_id="by-hand", max_turns=10)
            await self._call.write(turn_pb2.LeaseTurnsRequest(hello=hello))
        while True:
            response = await self._call.read()
            if response.HasField("grant"):
                grant: turn_pb2.TurnGrant = response.grant
                return grant

    async def ask(self, approval_id: str, role: str = "") -> str:
        """Takes a turn that asks; returns its conversation."""
        grant = await self.granted()
        requested = event_pb2.ApprovalRequested(
            approval_id=approval_id,
            prompt="run this?",
            tool_call=CALL,
            role=role,
            expires_at=Timestamp(seconds=4_000_000_000),
        )
        await self._turns.CommitTurn(
            turn_pb2.CommitTurnRequest(
                run_id=grant.run.run_id,
                turn=grant.turn,
                status=conversation_pb2.RUN_STATUS_WAITING,
                waiting_for=conversation_pb2.WAIT_KIND_APPROVAL,
                last_input_sequence=grant.head_sequence,
                events=[event_pb2.Event(agent="developer", approval_requested=requested)],
            ),
            metadata=call_metadata(capability=grant.capability),
        )
        return grant.run.conversation_id

    def leave(self) -> None:
        """Breaks the stream."""
        if self._call is not None:
            self._call.cancel()


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[MeshProcess]:
    """A real store process."""
    async with store_process(tmp_path / "store") as running:
        yield running


@pytest_asyncio.fixture
async def worker(store: MeshProcess, mesh_hosts: HostFactory) -> AsyncIterator[Worker]:
    """A worker of that store."""
    working = Worker(mesh_hosts, store)
    yield working
    working.leave()


@pytest_asyncio.fixture
async def gateway(store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory) -> Gateway:
    """In front of that store."""
    await publish_definitions(mesh_hosts, store)
    runtime = await start_runtime(mesh_hosts)
    return await gateways.start(
        store_address=store.grpc_address, runtime_address=runtime.grpc_address
    )


async def start(gateway: Gateway, **headers: str) -> None:
    """A conversation."""
    body = {"agents": ["developer"], "task": "do it"}
    response = await gateway.http.post("/conversations/start", json=body, headers=headers)
    assert response.status_code == 200, response.text


async def test_an_approval_is_listed_and_decided_over_rest(
    gateway: Gateway, worker: Worker
) -> None:
    for approval_id in ("appr_one", "appr_two"):
        await start(gateway)
        conversation_id = await worker.ask(approval_id)
    listed = (await gateway.http.get("/approvals", params={"page_size": 1})).json()
    assert [approval["approval_id"] for approval in listed["approvals"]] == ["appr_one"]
    token = listed["next_page_token"]
    rest = (await gateway.http.get("/approvals", params={"page_token": token})).json()
    (approval,) = rest["approvals"]
    assert approval["status"] == "pending"
    assert approval["tool_call"]["tool"] == "code_executor"
    body = {"decision": "edited", "edited_arguments_json": '{"code": "2"}', "comment": "safer"}
    response = await gateway.http.post("/approvals/appr_two/resolve", json=body)
    assert response.status_code == 200, response.text
    decided = response.json()["approval"]
    assert (decided["status"], decided["comment"]) == ("edited", "safer")
    shown = (await gateway.http.get("/approvals/appr_two")).json()
    assert shown["approval"] == decided
    assert [event["message"]["content"] for event in shown["context"]] == ["do it"]
    params: dict[str, Any] = {"context_messages": 0}
    alone = (await gateway.http.get("/approvals/appr_two", params=params)).json()
    assert alone["context"] == []
    params = {"status": "pending"}
    pending = (await gateway.http.get("/approvals", params=params)).json()["approvals"]
    assert [approval["approval_id"] for approval in pending] == ["appr_one"]
    params = {"conversation_id": conversation_id}
    mine = (await gateway.http.get("/approvals", params=params)).json()["approvals"]
    assert [approval["approval_id"] for approval in mine] == ["appr_two"]
    (answer,) = (await worker.granted()).inputs
    assert answer.approval_resolved.edited_arguments_json == '{"code": "2"}'


async def test_another_decision_is_refused_on_both_edges(gateway: Gateway, worker: Worker) -> None:
    await start(gateway)
    await worker.ask("appr_one")
    stub: Any = ApprovalServiceStub(gateway.channel)
    approve = pb2.ResolveApprovalRequest(
        approval_id="appr_one", decision=event_pb2.APPROVAL_STATUS_APPROVED, request_id="r"
    )
    first = await stub.ResolveApproval(approve)
    assert await stub.ResolveApproval(approve) == first
    found = await stub.GetApproval(pb2.GetApprovalRequest(approval_id="appr_one"))
    assert found.approval == first.approval
    assert [event.message.content for event in found.context] == ["do it"]
    reject = pb2.ResolveApprovalRequest(
        approval_id="appr_one", decision=event_pb2.APPROVAL_STATUS_REJECTED
    )
    with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_DECIDED") as refused:
        await stub.ResolveApproval(reject)
    assert refused.error.metadata["status"] == "approved"
    response = await gateway.http.post("/approvals/appr_one/resolve", json={"decision": "rejected"})
    assert response.status_code == 400
    assert reason(response) == "ALREADY_DECIDED"
    assert (await gateway.http.get("/approvals/appr_nobody")).status_code == 404


async def test_who_decides_is_the_caller_in_their_role(gateway: Gateway, worker: Worker) -> None:
    keys: dict[str, str] = {}
    for role in ("admin", "operator", "viewer"):
        headers = {"x-api-key": keys["admin"]} if keys else {}
        response = await gateway.http.post(
            "/admin/keys", json={"name": role, "role": role}, headers=headers
        )
        assert response.status_code == 200, response.text
        keys[role] = response.json()["secret"]
    await start(gateway, **{"x-api-key": keys["operator"]})
    await worker.ask("appr_one", role="admin")
    body = {"decision": "approved"}
    for role, status in (("viewer", 403), ("operator", 403), ("admin", 200)):
        response = await gateway.http.post(
            "/approvals/appr_one/resolve", json=body, headers={"x-api-key": keys[role]}
        )
        assert response.status_code == status, response.text
    seen = await gateway.http.get("/approvals/appr_one", headers={"x-api-key": keys["operator"]})
    assert seen.json()["approval"]["principal"] == response.json()["approval"]["principal"] != ""
