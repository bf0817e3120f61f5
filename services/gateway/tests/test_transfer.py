"""Export, import and search through both edges, with a real store behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from meshkit.errors import MeshError
from meshkit.testkit import HostFactory, raises_rich

from .conftest import Gateways
from .front import Front
from .scripted_store import ScriptedStore, start_scripted_store
from .test_streams import silent

MIB = 1024 * 1024


class EndlessFile(ScriptedStore):
    """Exports without an end."""

    async def export_conversation(
        self, request: store_pb2.ExportConversationRequest, context: Any
    ) -> AsyncIterator[store_pb2.ExportConversationResponse]:
        try:
            while True:
                yield store_pb2.ExportConversationResponse(chunk=bytes(MIB))
        finally:
            self.left.set()


class SlowRefusal(ScriptedStore):
    """Thinks before it says that there is nothing to export."""

    async def export_conversation(
        self, request: store_pb2.ExportConversationRequest, context: Any
    ) -> AsyncIterator[store_pb2.ExportConversationResponse]:
        await asyncio.sleep(0.7)
        raise MeshError.not_found("conversation", request.conversation_id)
        yield store_pb2.ExportConversationResponse()


async def test_a_file_that_cannot_be_had_is_refused_however_long_that_took(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    store = await start_scripted_store(mesh_hosts, SlowRefusal(silent))
    gateway = await gateways.start(store_address=store.grpc_address)
    response = await gateway.http.get("/conversations/conv_1/export")
    assert response.status_code == 404
    assert response.json()["error"]["status"] == "NOT_FOUND"


async def test_pieces_that_are_no_messages_are_refused_and_no_defect(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    path = "/agentmesh.gateway.v1.ConversationService/ImportConversation"
    upload: Any = front.gateway.channel.stream_unary(path)
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY"):
        await upload(iter([b"\xff\xff\xff"]))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_conversation_goes_out_and_in_as_a_file(front: Front) -> None:
    cid = (await front.started())["conversation_id"]
    exported = await front.http.get(f"/conversations/{cid}/export")
    assert exported.status_code == 200
    assert exported.headers["content-disposition"] == "attachment"
    lines = [json.loads(line) for line in exported.content.splitlines()]
    assert lines[0]["conversation"]["conversation_id"] == cid
    assert list(lines[-1]) == ["end"]

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(exported.content), 100):
            yield exported.content[at : at + 100]

    imported = await front.http.post(
        "/conversations/import", content=pieces(), headers={"Content-Type": "application/jsonl"}
    )
    assert imported.status_code == 200, imported.text
    copy = imported.json()
    assert copy["status"] == "cancelled"
    assert copy["conversation_id"] != cid
    found = (await front.http.get(f"/conversations/{copy['conversation_id']}")).json()
    original = (await front.http.get(f"/conversations/{cid}")).json()
    assert found["task"] == original["task"]
    said = [message["content"] for message in found["messages"]]
    assert said == [message["content"] for message in original["messages"]] != []


async def test_an_import_may_be_repeated(front: Front) -> None:
    cid = (await front.started())["conversation_id"]
    content = (await front.http.get(f"/conversations/{cid}/export")).content
    path, jsonl = "/conversations/import", {"Content-Type": "application/jsonl"}
    keyed = jsonl | {"Idempotency-Key": "once"}
    first = await front.http.post(path, content=content, headers=keyed)
    again = await front.http.post(path, content=content, headers=keyed)
    named = await front.http.post(f"{path}?request_id=once", content=content, headers=jsonl)
    assert first.status_code == 200, first.text
    assert first.json() == again.json() == named.json()
    other = await front.http.post(path, content=content, headers=jsonl)
    assert other.json()["conversation_id"] != first.json()["conversation_id"]
    for query, field in (("?request_id=other", "request_id"), ("?nonsense=1", "nonsense")):
        refused = await front.http.post(path + query, content=content, headers=keyed)
        assert refused.status_code == 400
        assert field in refused.text


async def test_what_cannot_be_imported_is_a_bad_request(front: Front) -> None:
    jsonl = {"Content-Type": "application/jsonl"}
    refused = await front.http.post("/conversations/import", content=b"{]\n", headers=jsonl)
    assert refused.status_code == 400
    assert "lines[1]" in refused.text
    plain = {"Content-Type": "text/plain"}
    refused = await front.http.post("/conversations/import", content=b"{}", headers=plain)
    assert refused.status_code == 415
    refused = await front.http.post("/conversations/import", content=b"", headers=jsonl)
    assert refused.status_code == 400
    missing = await front.http.get("/conversations/conv_none/export")
    assert missing.status_code == 404


async def test_a_list_is_searched(front: Front) -> None:
    cid = (await front.started())["conversation_id"]
    await front.http.post(f"/conversations/{cid}/message", json={"content": "Zq9: purple Elephant"})
    for text, ids in (("purple ELEPH*", [cid]), ('"elephant purple"', []), ("zq9 -purple", [])):
        page = (await front.http.get("/conversations", params={"text": text})).json()
        assert [c["conversation_id"] for c in page["conversations"]] == ids, text
    refused = await front.http.get("/conversations", params={"text": "x" * 1001})
    assert refused.status_code == 400


@pytest.mark.parametrize("size", [1, 1000])
async def test_files_go_over_grpc_too(front: Front, size: int) -> None:
    cid = (await front.started())["conversation_id"]
    wanted = pb2.ExportConversationRequest(conversation_id=cid)
    data = b"".join([r.chunk async for r in front.conversations.ExportConversation(wanted)])

    async def requests() -> AsyncIterator[pb2.ImportConversationRequest]:
        for at in range(0, len(data), size):
            yield pb2.ImportConversationRequest(chunk=data[at : at + size])

    copy = await front.conversations.ImportConversation(requests())
    page = await front.conversations.ListEvents(
        pb2.ListEventsRequest(conversation_id=copy.conversation_id, newest_first=True)
    )
    assert page.events[0].sequence == copy.head_sequence


async def test_a_chunk_that_the_contract_refuses_is_named(front: Front) -> None:
    async def requests() -> AsyncIterator[pb2.ImportConversationRequest]:
        yield pb2.ImportConversationRequest(chunk=b" " * (2 * MIB))

    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="chunk"):
        await front.conversations.ImportConversation(requests())


@pytest.mark.parametrize("edge", ["grpc", "http"])
async def test_who_leaves_an_export_ends_it_at_the_store(
    gateways: Gateways, mesh_hosts: HostFactory, edge: str
) -> None:
    store = EndlessFile(silent)
    host = await start_scripted_store(mesh_hosts, store)
    gateway = await gateways.start(store_address=host.grpc_address)
    if edge == "grpc":
        stub: Any = ConversationServiceStub(gateway.channel)
        call = stub.ExportConversation(pb2.ExportConversationRequest(conversation_id="conv_1"))
        assert (await call.read()).chunk
        call.cancel()
    else:
        async with gateway.http.stream("GET", "/conversations/conv_1/export") as response:
            assert await anext(response.aiter_bytes())
    await asyncio.wait_for(store.left.wait(), 10)
