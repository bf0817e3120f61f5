"""Which calls are recorded, over both edges, with a real store behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb
from agentmesh.conversation_store.v1.ledger_service_pb2_grpc import LedgerServiceStub
from agentmesh.gateway.v1 import admin_service_pb2 as admin_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversation_pb2
from agentmesh.gateway.v1 import tool_service_pb2 as tool_pb2
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.gateway.v1.tool_service_pb2_grpc import ToolServiceStub
from agentmesh.tool_runner.v1.tool_runner_service_pb2 import EXECUTION_LANGUAGE_PYTHON
from agentmesh_gateway.audit.resources import request_id_of, resource_of
from agentmesh_gateway.audit.strangers import Strangers
from agentmesh_gateway.audit.trail import AuditTrail
from meshkit.channels import call_metadata
from meshkit.identity import Principal
from meshkit.testkit import HostFactory, raises_rich

from .conftest import Gateways
from .front import Front
from .tenants import caller, store_stub

ADMIN = Principal("reader", "acme", 3)
NOBODY = Principal("reader", "", 3)
PATIENCE = 45.0
SECRET_WORDS = "the moon is made of cheese"


async def _records(front: Front, hosts: HostFactory, tenant: str = "acme") -> list[pb.AuditRecord]:
    principal = Principal("reader", tenant, 3)
    page = await store_stub(hosts, front, LedgerServiceStub).ListAudit(
        pb.ListAuditRequest(page_size=1000), metadata=call_metadata(principal)
    )
    return list(page.records)


async def _expect(front: Front, hosts: HostFactory, *wanted: tuple[str, str, str]) -> None:
    """Waits until there is one record for each (method, resource, code), and none besides."""
    found: list[tuple[str, str, str]] = []
    async with asyncio.timeout(PATIENCE):
        while sorted(found) != sorted(wanted):
            found = [
                (record.method.rpartition("/")[2], record.resource, record.code)
                for record in await _records(front, hosts)
                if record.principal != "test"
            ]
            if len(found) > len(wanted):
                break
            await asyncio.sleep(0.05)
    assert sorted(found) == sorted(wanted)


async def test_changes_and_refusals_are_recorded_over_both_edges(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    operator = await caller(own_front, mesh_hosts, "operator")
    viewer = await caller(own_front, mesh_hosts, "viewer")
    http = own_front.http
    started = await http.post(
        "/conversations/start",
        json={
            "task": SECRET_WORDS,
            "workflow": "software_development",
            "request_id": "r1",
            "visibility": "tenant",
        },
        headers=operator.headers,
    )
    name = started.json()["conversation_id"]
    message = {"content": SECRET_WORDS}
    sent = conversation_pb2.SendMessageRequest(conversation_id=name, content=SECRET_WORDS)
    await own_front.conversations.SendMessage(sent, metadata=operator.metadata)
    # Denied by role, over both edges; a read; something that is not there; a bad request.
    refused = await http.post(
        f"/conversations/{name}/message", json=message, headers=viewer.headers
    )
    assert refused.status_code == 403
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        await own_front.conversations.SendMessage(sent, metadata=viewer.metadata)
    assert (await http.get(f"/conversations/{name}", headers=viewer.headers)).status_code == 200
    assert (await http.get("/admin/audit", headers=viewer.headers)).status_code == 403
    missing = await http.post("/conversations/conv_none/cancel", headers=operator.headers)
    assert missing.status_code == 404
    bad = await http.post("/conversations/start", json={"task": 3}, headers=operator.headers)
    assert bad.status_code == 400
    conversation = f"conversation:{name}"
    await _expect(
        own_front,
        mesh_hosts,
        ("StartConversation", conversation, "OK"),
        ("SendMessage", conversation, "OK"),
        ("SendMessage", conversation, "PERMISSION_DENIED"),
        ("SendMessage", conversation, "PERMISSION_DENIED"),
        ("ListAudit", "", "PERMISSION_DENIED"),
        ("CancelConversation", "conversation:conv_none", "NOT_FOUND"),
        ("StartConversation", "", "INVALID_ARGUMENT"),
    )
    records = await _records(own_front, mesh_hosts)
    start = next(one for one in records if one.request_id == "r1")
    assert (start.principal, start.tenant) == (operator.key_id, "acme")
    assert start.peer.startswith("ipv4:127.0.0.1:")
    assert len(start.trace_id) == 32
    assert {one.principal for one in records if one.code == "PERMISSION_DENIED"} == {viewer.key_id}
    everything = b"".join(one.SerializeToString() for one in records)
    assert b"cheese" not in everything
    assert b"amk_" not in everything
    # Gone is the conversation, not what was done to it.
    admin = await caller(own_front, mesh_hosts, "admin")
    gone = await http.delete(f"/conversations/{name}", headers=admin.headers)
    assert gone.status_code == 200
    assert {"StartConversation", "SendMessage", "DeleteConversation"} <= {
        one.method.rpartition("/")[2]
        for one in await _records(own_front, mesh_hosts)
        if one.resource == conversation
    }


async def test_strangers_are_recorded_without_a_tenant(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    admin = await caller(own_front, mesh_hosts, "admin")
    for headers in ({}, {"x-api-key": "amk_wrong"}, {}):
        refused = await own_front.http.post(
            "/conversations/start", json={"task": "x"}, headers=headers
        )
        assert refused.status_code == 401
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await own_front.conversations.CancelConversation(
            conversation_pb2.CancelConversationRequest(conversation_id="conv_1"),
            metadata=(("x-api-key", "amk_wrong"),),
        )
    del admin
    await own_front.gateway.host.stop()  # takes what is left to the store
    verdict = await _strangers(own_front)
    # Two reasons, and one of them twice.
    assert sorted(verdict) == [
        ("CancelConversation", "UNAUTHENTICATED", "conversation:conv_1"),
        ("StartConversation", "UNAUTHENTICATED", "-"),
        ("StartConversation", "UNAUTHENTICATED", "calls:2"),
    ]


async def _strangers(front: Front) -> list[tuple[str, str, str]]:
    """From the database, as an operator reads them: no tenant may."""
    command = [*front.store.command, "audit", "list", "--tenant", ""]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=front.store.environment
    )
    output, _ = await process.communicate()
    columns = [line.split("  ") for line in output.decode().splitlines()]
    return [(line[4].rpartition("/")[2], line[2], line[5]) for line in columns]


async def test_what_is_done_outside_of_the_store_is_recorded_before_it_begins(
    own_front: Front, mesh_hosts: HostFactory
) -> None:
    operator = await caller(own_front, mesh_hosts, "operator")
    stub: Any = ToolServiceStub(own_front.gateway.channel)
    request = tool_pb2.ExecuteCodeRequest(language=EXECUTION_LANGUAGE_PYTHON, code="print(1)")
    with pytest.raises(grpc.aio.AioRpcError) as failed:  # no tool_runner here
        async for _ in stub.ExecuteCode(request, metadata=operator.metadata):
            pass
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    started, *_ = await _records(own_front, mesh_hosts)
    assert (started.method.rpartition("/")[2], started.code) == ("ExecuteCode", "STARTED")
    await _expect(
        own_front, mesh_hosts, ("ExecuteCode", "", "STARTED"), ("ExecuteCode", "", "UNAVAILABLE")
    )


async def test_nothing_is_done_outside_of_the_store_that_cannot_be_recorded(
    gateways: Gateways,
) -> None:
    alone = await gateways.start(allow_anonymous=True)
    stub: Any = ToolServiceStub(alone.channel)
    request = tool_pb2.ExecuteCodeRequest(language=EXECUTION_LANGUAGE_PYTHON, code="print(1)")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in stub.ExecuteCode(request):
            pass
    assert "audit record" in (failed.value.details() or "")


async def test_reads_are_recorded_on_request_and_found_by_filters(
    own_front: Front, mesh_hosts: HostFactory, gateways: Gateways
) -> None:
    admin = await caller(own_front, mesh_hosts, "admin")
    watched = await gateways.start(store_address=own_front.store.grpc_address, audit_reads=True)
    assert (await watched.http.get("/conversations", headers=admin.headers)).status_code == 200
    await _expect(own_front, mesh_hosts, ("ListConversations", "", "OK"))
    method = "agentmesh.gateway.v1.ConversationService/ListConversations"
    stub: Any = AdminServiceStub(own_front.gateway.channel)
    wanted = admin_pb2.ListAuditRequest
    for request, count in (
        (wanted(method=method), 1),
        (wanted(method="x"), 0),
        (wanted(principal=admin.key_id, code="OK"), 1),
        (wanted(code="NOT_FOUND"), 0),
        (wanted(resource="conversation:conv_1"), 0),
    ):
        found = await stub.ListAudit(request, metadata=admin.metadata)
        assert len(found.records) == count, request
    params = {"method": method, "principal": admin.key_id}
    shown = await own_front.http.get("/admin/audit", params=params, headers=admin.headers)
    assert [one["code"] for one in shown.json()["records"]] == ["OK"]


async def test_the_access_log_has_one_line_for_a_call_and_no_words(
    own_front: Front, mesh_hosts: HostFactory, caplog: pytest.LogCaptureFixture
) -> None:
    operator = await caller(own_front, mesh_hosts, "operator")
    caplog.set_level(logging.INFO, "agentmesh.access")
    await own_front.http.post(
        "/conversations/start",
        json={"task": SECRET_WORDS, "workflow": "software_development"},
        headers=operator.headers,
    )
    (line,) = [one for one in caplog.records if one.name == "agentmesh.access"]
    fields = vars(line)
    assert fields["method"] == "agentmesh.gateway.v1.ConversationService/StartConversation"
    assert (fields["code"], fields["principal"]) == ("OK", operator.key_id)
    assert fields["tenant"] == "acme"
    assert fields["duration_ms"] > 0
    assert fields["request_bytes"] > len(SECRET_WORDS)
    assert fields["response_bytes"] > 0
    assert fields["peer"].startswith("ipv4:127.0.0.1:")
    assert "cheese" not in str(fields)


# --- the trail -------------------------------------------------------------------------------


class Store:
    """Takes records, or does not."""

    def __init__(self) -> None:
        self.down = False
        self.kept: dict[str, pb.AuditRecord] = {}

    async def append(self, records: Sequence[pb.AuditRecord]) -> None:
        if self.down:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "down"
            )
        self.kept |= {record.record_id: record for record in records}


def _record(number: int, tenant: str = "acme") -> pb.AuditRecord:
    return pb.AuditRecord(record_id=f"r{number}", tenant=tenant, code="OK")


async def test_what_a_full_queue_loses_is_counted_and_nobody_waits() -> None:
    store = Store()
    store.down = True
    trail = AuditTrail(store.append, every=0.01, most=5)
    await trail.start()
    for number in range(8):
        trail.add(_record(number, "acme" if number < 7 else "other"))
    with pytest.raises(grpc.aio.AioRpcError):
        await trail.put(_record(99))
    store.down = False
    await trail.put(_record(100))
    await trail.stop()
    gaps = {one.tenant: one.resource for one in store.kept.values() if one.code == "GAP"}
    assert gaps == {"acme": "records:2", "other": "records:1"}
    kept = {name for name, one in store.kept.items() if one.code == "OK"}
    assert kept == {"r0", "r1", "r2", "r3", "r4", "r100"}


async def test_what_was_lost_is_told_once_whatever_became_of_the_telling() -> None:
    store = Store()
    store.down = True
    told = 0

    async def append(records: Sequence[pb.AuditRecord]) -> None:
        """The store keeps them the first time, and its answer does not arrive."""
        nonlocal told
        await store.append(records)
        told += 1
        if told == 1:
            store.down = True
            await store.append(records)

    trail = AuditTrail(append, every=0.01, most=5)
    for number in range(8):
        trail.add(_record(number))
    store.down = False
    await trail.start()
    async with asyncio.timeout(PATIENCE):
        while not store.down:
            await asyncio.sleep(0.01)
    trail.add(_record(8))
    trail.add(_record(9))
    store.down = False
    await trail.stop()
    gaps = [one.resource for one in store.kept.values() if one.code == "GAP"]
    kept = sum(one.code == "OK" for one in store.kept.values())
    assert sum(int(gap.removeprefix("records:")) for gap in gaps) == 10 - kept


def test_a_flood_of_strangers_is_a_few_records() -> None:
    kept: list[pb.AuditRecord] = []
    strangers = Strangers(kept.append, most=3)

    def call(site: str, method: str, reason: str = "CREDENTIALS_MISSING", code: str = "U") -> None:
        strangers.refused(
            (site, method, reason),
            code,
            lambda: pb.AuditRecord(
                method=method,
                code=code,
                resource="key:key_1",
                peer=f"ipv4:{site}:4711",
            ),
        )

    for _ in range(1000):
        call("10.0.0.1", "Start")
    call("2001:db8::/64", "Start")
    call("2001:db8::/64", "Start")
    call("10.0.0.2", "Stop")
    for number in range(500):
        call(f"10.0.1.{number}", f"M{number}")
    call("10.0.0.3", "Start", code="P")
    strangers.hand_over()
    assert [(one.peer, one.method, one.code, one.resource) for one in kept] == [
        ("ipv4:10.0.0.1", "Start", "U", "calls:1000"),
        ("ipv6:[2001:db8::/64]", "Start", "U", "calls:2"),
        ("ipv4:10.0.0.2:4711", "Stop", "U", "key:key_1"),
        ("", "", "U", "calls:500"),
        ("ipv4:10.0.0.3:4711", "Start", "P", "key:key_1"),
    ]
    strangers.hand_over()
    assert len(kept) == 5


async def test_a_trail_that_stops_takes_everything_along() -> None:
    store = Store()
    trail = AuditTrail(store.append, every=3600)
    await trail.start()
    for number in range(1200):
        trail.add(_record(number))
    await trail.stop()
    assert len(store.kept) == 1200


def test_resources_are_ids_and_nothing_else() -> None:
    send = conversation_pb2.SendMessageRequest
    assert resource_of(send(conversation_id="conv_1", request_id="r")) == "conversation:conv_1"
    assert resource_of(send(conversation_id="my password is 12345")) == "conversation:?"
    assert resource_of(admin_pb2.RevokeKeyRequest(key_id="key_1")) == "key:key_1"
    assert resource_of(conversation_pb2.StartConversationRequest(task="x")) == ""
    assert resource_of(None) == ""
    assert request_id_of(send(request_id="r-1")) == "r-1"
    assert request_id_of(send(request_id="a b")) == "?"
