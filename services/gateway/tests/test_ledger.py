"""Usage, limits and the audit log over both edges, with a real store behind."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import usage_pb2
from agentmesh.conversation.v1 import event_pb2, message_pb2
from agentmesh.conversation_store.v1 import ledger_service_pb2 as store_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn_pb2
from agentmesh.conversation_store.v1.ledger_service_pb2_grpc import LedgerServiceStub
from agentmesh.conversation_store.v1.turn_service_pb2_grpc import TurnServiceStub
from agentmesh.gateway.v1 import admin_service_pb2 as admin_pb2
from agentmesh.gateway.v1 import usage_service_pb2 as pb2
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.gateway.v1.usage_service_pb2_grpc import UsageServiceStub
from google.protobuf.timestamp_pb2 import Timestamp
from meshkit.channels import call_metadata
from meshkit.identity import SYSTEM
from meshkit.testkit import HostFactory, raises_rich

from .front import START, Front
from .tenants import Caller, caller, store_stub

SPENT = usage_pb2.Usage(input_tokens=60, output_tokens=40, model_calls=1)
DIGEST = b"d" * 32


def said(message_id: str) -> event_pb2.Event:
    message = message_pb2.Message(message_id=message_id, agent="developer", content="done")
    return event_pb2.Event(agent="developer", message=message)


async def spend(front: Front, hosts: HostFactory, who: Caller, *models: str) -> str:
    """A conversation whose only turn calls these models; returns its id."""
    body = {"task": "x", "agents": ["developer"]}
    response = await front.http.post(START, json=body, headers=who.headers)
    assert response.status_code == 200, response.text
    channel = hosts.channels("agent_runtime").channel(
        front.store.grpc_address, "conversation_store"
    )
    turns: Any = TurnServiceStub(channel)
    lease = turns.LeaseTurns()
    hello = turn_pb2.LeaseHello(worker_id="by-hand", max_turns=1)
    await lease.write(turn_pb2.LeaseTurnsRequest(hello=hello))
    response = await lease.read()
    while not response.HasField("grant"):
        response = await lease.read()
    grant = response.grant
    metadata = call_metadata(capability=grant.capability)
    for model in models:
        step: dict[str, Any] = {
            "run_id": grant.run.run_id,
            "turn": grant.turn,
            "step_key": f"developer/{model}",
            "request_digest": DIGEST,
        }
        await turns.BeginStep(
            turn_pb2.BeginStepRequest(**step, kind=turn_pb2.STEP_KIND_MODEL, attempt_id="1"),
            metadata=metadata,
        )
        await turns.RecordStep(
            turn_pb2.RecordStepRequest(
                **step, result=b"r", events=[said(model)], usage=SPENT, model=model
            ),
            metadata=metadata,
        )
    lease.cancel()
    conversation_id: str = grant.run.conversation_id
    return conversation_id


async def test_usage_by_dimension_in_pages_for_the_tenant_alone(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    operator = await caller(own_front, mesh_hosts, "operator")
    other = await caller(own_front, mesh_hosts, "viewer", "other")
    conversation_id = await spend(own_front, mesh_hosts, operator, "m1", "m2", "m3")

    async def usage(who: Caller = operator, **params: Any) -> Any:
        response = await own_front.http.get("/usage", params=params, headers=who.headers)
        assert response.status_code == 200, response.text
        return response.json()

    (total,) = (await usage())["rows"]
    assert total["usage"]["input_tokens"] == 3 * SPENT.input_tokens
    (mine,) = (await usage(dimension="conversation"))["rows"]
    assert mine == {"key": conversation_id, "usage": total["usage"]}
    first = await usage(dimension="model", page_size=2)
    assert [row["key"] for row in first["rows"]] == ["m1", "m2"]
    token = first["next_page_token"]
    second = await usage(dimension="model", page_size=2, page_token=token)
    assert [row["key"] for row in second["rows"]] == ["m3"]
    assert second["next_page_token"] == ""
    assert (await usage(dimension="model", to_time="2020-01-01T00:00:00Z"))["rows"] == []
    assert (await usage(other, dimension="model"))["rows"] == []
    # Who may not read the conversation does not see what it cost.
    viewer = await caller(own_front, mesh_hosts, "viewer")
    assert (await usage(viewer, dimension="model"))["rows"] == []
    stub: Any = UsageServiceStub(own_front.gateway.channel)
    request = pb2.SummarizeUsageRequest(dimension=store_pb2.USAGE_DIMENSION_AGENT)
    found = await stub.SummarizeUsage(request, metadata=operator.metadata)
    assert [(row.key, row.usage.output_tokens) for row in found.rows] == [("developer", 120)]
    assert (await own_front.http.get("/usage")).status_code == 401
    for wrong in ({"dimension": "colour"}, {"page_size": 10_001}, {"page_token": token}):
        refused = await own_front.http.get("/usage", params=wrong, headers=operator.headers)
        assert refused.status_code == 400


async def test_limits_are_seen_by_all_and_set_by_administrators(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    admin = await caller(own_front, mesh_hosts, "admin")
    operator = await caller(own_front, mesh_hosts, "operator")
    other = await caller(own_front, mesh_hosts, "admin", "other")
    path = "/admin/policy"
    unset = (await own_front.http.get(path, headers=operator.headers)).json()["policy"]
    wanted = {"max_active_runs": 3, "daily_budget": {"max_tokens": 500}, "etag": unset["etag"]}
    refused = await own_front.http.put(path, json=wanted, headers=operator.headers)
    assert refused.status_code == 403
    headers = admin.headers | {"idempotency-key": "once"}
    put = await own_front.http.put(path, json=wanted, headers=headers)
    assert put.status_code == 200, put.text
    policy = put.json()["policy"]
    assert policy["max_active_runs"] == 3
    assert policy["etag"] != unset["etag"]
    assert (await own_front.http.put(path, json=wanted, headers=headers)).json() == put.json()
    stale = await own_front.http.put(path, json=wanted, headers=admin.headers)
    assert stale.status_code == 409, stale.text
    assert (await own_front.http.get(path, headers=operator.headers)).json()["policy"] == policy
    theirs = (await own_front.http.get(path, headers=other.headers)).json()["policy"]
    assert "max_active_runs" not in theirs
    stub: Any = AdminServiceStub(own_front.gateway.channel)
    found = await stub.GetTenantPolicy(
        admin_pb2.GetTenantPolicyRequest(), metadata=operator.metadata
    )
    assert (found.policy.max_active_runs, found.policy.etag) == (3, policy["etag"])
    changed = admin_pb2.PutTenantPolicyRequest(policy=store_pb2.TenantPolicy(retention_events=9))
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        await stub.PutTenantPolicy(changed, metadata=operator.metadata)
    assert (
        await stub.PutTenantPolicy(changed, metadata=admin.metadata)
    ).policy.max_active_runs == 0
    wrong = await own_front.http.put(path, json={"max_active_runs": 0}, headers=admin.headers)
    assert wrong.status_code == 400
    assert "policy.max_active_runs" in wrong.text


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_the_audit_log_is_for_administrators(
    own_front: Front, mesh_hosts: HostFactory, role: str
) -> None:
    admin = await caller(own_front, mesh_hosts, "admin")
    somebody = await caller(own_front, mesh_hosts, role)
    records = [
        store_pb2.AuditRecord(
            time=Timestamp(seconds=second),
            tenant=tenant,
            principal="key_1",
            method="M",
            code="OK",
            record_id=f"b:{second}",
        )
        for second, tenant in enumerate(["acme", "other", "acme", "acme"], 1)
    ]
    await store_stub(mesh_hosts, own_front, LedgerServiceStub).AppendAudit(
        store_pb2.AppendAuditRequest(batch_id="b", records=records), metadata=call_metadata(SYSTEM)
    )
    until = {"to_time": "1970-01-01T00:00:10Z"}
    params: dict[str, Any] = until | {"page_size": 2}
    first = await own_front.http.get("/admin/audit", params=params, headers=admin.headers)
    assert first.status_code == 200, first.text
    times = [record["time"] for record in first.json()["records"]]
    assert times == ["1970-01-01T00:00:04Z", "1970-01-01T00:00:03Z"]
    params["page_token"] = first.json()["next_page_token"]
    rest = (await own_front.http.get("/admin/audit", params=params, headers=admin.headers)).json()
    assert [record["time"] for record in rest["records"]] == ["1970-01-01T00:00:01Z"]
    assert rest["next_page_token"] == ""
    refused = await own_front.http.get("/admin/audit", headers=somebody.headers)
    assert refused.status_code == 403
    stub: Any = AdminServiceStub(own_front.gateway.channel)
    found = await stub.ListAudit(
        admin_pb2.ListAuditRequest(to_time=Timestamp(seconds=10)), metadata=admin.metadata
    )
    for record in found.records:
        record.sequence = 0  # given by and by
    assert list(found.records) == [records[3], records[2], records[0]]
