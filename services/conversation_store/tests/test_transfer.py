"""Export and import: the same conversation elsewhere, whole or not at all."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentmesh.conversation.v1 import event_pb2, message_pb2, stream_pb2
from agentmesh.conversation_store.v1 import blob_service_pb2, blob_service_pb2_grpc
from agentmesh_conversation_store.storage.sql import transfer
from google.protobuf import json_format, struct_pb2

from services.conversation_store.tests.driver import Database, RunningStore
from services.conversation_store.tests.support import (
    ACME,
    OTHER,
    PATIENCE,
    acting,
    message_event,
    store_pb,
    turn_pb,
)
from services.conversation_store.tests.transfers import (
    Spoil,
    at,
    export,
    import_lines,
    inside,
    nothing_but,
    refused_for,
)

UNKNOWN_KIND = b"\xfa\x3f\x05hello"  # field 1023, of a later version


@pytest_asyncio.fixture
async def elsewhere(tmp_path: Path, database: Database) -> AsyncIterator[RunningStore]:
    """An empty store of the other kind, so that conversations cross between databases."""
    running = await RunningStore.start(tmp_path / "elsewhere")
    yield running
    await running.stop()


async def _upload(store: RunningStore, data: bytes) -> str:
    stub: Any = blob_service_pb2_grpc.BlobServiceStub(store.channel)

    async def requests() -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
        yield blob_service_pb2.UploadBlobRequest(size_bytes=len(data), chunk=data)

    return str((await stub.UploadBlob(requests(), metadata=acting(ACME))).digest)


async def _download(store: RunningStore, digest: str) -> bytes:
    stub: Any = blob_service_pb2_grpc.BlobServiceStub(store.channel)
    request = blob_service_pb2.DownloadBlobRequest(digest=digest)
    return b"".join([r.chunk async for r in stub.DownloadBlob(request, metadata=acting(ACME))])


async def _bytes(store: RunningStore, conversation_id: str) -> list[bytes]:
    """The events as they travel."""
    request = store_pb.SubscribeConversationRequest(
        conversation_id=conversation_id, until=stream_pb2.SUBSCRIBE_UNTIL_HEAD
    )
    call = store.conversations.SubscribeConversation(request, metadata=acting(ACME))
    return [e.SerializeToString() async for r in call for e in r.item.events.events]


async def _rich(store: RunningStore, status: str = "COMPLETED") -> tuple[str, bytes]:
    """A conversation with a bit of everything, and the bytes of its blob."""
    blob = bytes(range(256)) * 2000
    conversation = await store.start_conversation(task="Paint the HOUSE", labels={"a": "1"})
    worker = await store.worker()
    turn = await worker.granted()
    await turn.take(checkpoint=turn_pb.Checkpoint(data=b"whole" * 100_000, encoding="x"))
    turn = await worker.granted()
    said = message_event(f"{turn.message_id}_a", "look at this — naïve text")
    digest = await _upload(store, blob)
    said.message.parts.add().blob.digest = digest
    data = struct_pb2.Struct()
    data.update({"n": 1.5, "deep": {"x": [1, None, True]}})
    said.message.parts.append(message_pb2.Part(data=message_pb2.DataPart(data=data)))
    odd = message_event(f"{turn.message_id}_b", "not a number")
    odd.message.parts.add().data.data.fields["nan"].number_value = float("nan")
    later = event_pb2.Event.FromString(UNKNOWN_KIND)
    await turn.begin()
    await turn.record(events=[said, odd, later])
    held = turn.grant.checkpoint.checkpoint_id
    await turn.commit(
        status, checkpoint=turn_pb.Checkpoint(data=b"difference", base_checkpoint_id=held)
    )
    worker.resize(0)
    return conversation.conversation_id, blob


async def test_a_conversation_arrives_whole(store: RunningStore, elsewhere: RunningStore) -> None:
    cid, blob = await _rich(store)
    before = await store.get(cid)
    exported = await export(store, cid)
    after = await import_lines(elsewhere, exported)
    assert await elsewhere.get(cid) == after
    assert await _bytes(elsewhere, cid) == await _bytes(store, cid)
    assert any(UNKNOWN_KIND in data for data in await _bytes(elsewhere, cid))
    for field in ("status", "summary", "usage", "labels", "task", "agents", "started_at"):
        assert getattr(after, field) == getattr(before, field), field
    assert after.size_bytes == before.size_bytes
    assert after.run.run_id == before.run.run_id
    assert after.run.status == before.run.status
    assert await _download(elsewhere, hashlib.sha256(blob).hexdigest()) == blob
    # Exported again, it is the same but for the names of its checkpoints and its etag.
    (header, *lines), (expected, *others) = (
        _normal(data) for data in (await export(elsewhere, cid), exported)
    )
    assert lines == others
    for part in header:
        assert header[part] == expected[part]


def _normal(exported: bytes) -> list[Any]:
    lines = [json.loads(line) for line in exported.splitlines()]
    lines[0]["conversation"].pop("etag")
    names: dict[str, int] = {}
    for line in lines:
        if "checkpoint" in line:
            for key in ("checkpoint_id", "base_checkpoint_id"):
                line["checkpoint"][key] = names.setdefault(line["checkpoint"][key], len(names))
    return lines


async def test_an_import_can_be_found_and_gone_on_with(
    store: RunningStore, elsewhere: RunningStore
) -> None:
    cid, _ = await _rich(store)
    await import_lines(elsewhere, await export(store, cid))
    for text in ("house", "NAÏVE"):
        request = store_pb.ListConversationsRequest(text=text)
        page = await elsewhere.conversations.ListConversations(request, metadata=acting(ACME))
        assert [c.conversation_id for c in page.conversations] == [cid]
    sent = await elsewhere.send(cid, "and the door?")
    worker = await elsewhere.worker()
    turn = await worker.granted()
    assert turn.run_id == sent.run_id
    assert [event.sequence for event in turn.grant.inputs] == [sent.sequence]
    assert turn.grant.checkpoint.data == b"difference"
    assert [base.data for base in turn.grant.base_checkpoints] == [b"whole" * 100_000]
    assert turn.grant.definition.id == "solo"
    await turn.take("COMPLETED")
    log = await elsewhere.log(cid)
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))


async def test_ids_in_use_are_replaced_everywhere(store: RunningStore) -> None:
    cid, _ = await _rich(store)
    exported = await export(store, cid)
    copy = await import_lines(store, exported)
    again = await import_lines(store, exported, OTHER)
    assert len({cid, copy.conversation_id, again.conversation_id}) == 3
    originals, copies = await store.log(cid), await store.log(copy.conversation_id)
    names: dict[str, str] = {}
    for one, other in zip(originals, copies, strict=True):
        for ours, theirs in zip(_ids(one), _ids(other), strict=True):
            assert names.setdefault(ours, theirs) == theirs
    assert len(set(names.values())) == len(names)
    assert not set(names) & set(names.values())
    text = "\n".join(str(event) for event in originals)
    for ours, theirs in sorted(names.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(ours, theirs)
    assert "\n".join(str(event) for event in copies) == text
    assert copy.run.run_id == names[originals[-1].run_id]
    await store.send(copy.conversation_id)
    worker = await store.worker()
    turn = await worker.granted()
    assert turn.grant.checkpoint.data == b"difference"


def _ids(event: event_pb2.Event) -> list[str]:
    found = [event.conversation_id, event.run_id, event.message.message_id]
    found += [event.run_started.root_run_id, *event.turn_discarded.message_ids]
    return [name for name in found if name]


async def test_what_was_under_way_has_ended(store: RunningStore, elsewhere: RunningStore) -> None:
    conversation = await store.start_conversation(task="begin")
    cid = conversation.conversation_id
    imported = await import_lines(elsewhere, await export(store, cid))
    assert imported.status == 6  # cancelled
    assert imported.run.ended_at.seconds > 0
    worker = await elsewhere.worker()
    sent = await elsewhere.send(cid, "go on")
    turn = await worker.granted()
    # What nobody had read is read now.
    assert [event.sequence for event in turn.grant.inputs] == [3, sent.sequence]


async def test_a_fork_is_exported_with_what_it_shares(
    store: RunningStore, elsewhere: RunningStore
) -> None:
    cid, _ = await _rich(store)
    request = store_pb.ForkConversationRequest(conversation_id=cid)
    response = await store.conversations.ForkConversation(request, metadata=acting(ACME))
    fork = response.conversation.conversation_id
    imported = await import_lines(elsewhere, await export(store, fork))
    assert imported.conversation_id == fork
    assert [e.conversation_id for e in await elsewhere.log(fork)] == [fork] * len(
        await store.log(fork)
    )
    copy = await import_lines(store, await export(store, fork))
    assert [e.sequence for e in await store.log(copy.conversation_id)] == [
        e.sequence for e in await store.log(fork)
    ]
    assert await _bytes(store, fork) == await _bytes(elsewhere, fork)


@pytest.mark.parametrize("at_once", [5000, 3])
async def test_the_feed_tells_an_import_in_order(
    store: RunningStore, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """All of it, whatever else happens meanwhile, also of one too long for a transaction."""
    monkeypatch.setattr(transfer, "_TOLD_WITH_IT", at_once)
    monkeypatch.setattr(transfer, "_TOLD_AT_ONCE", at_once)
    cid, _ = await _rich(store)
    exported = await export(store, cid)
    call = store.conversations.SubscribeTenant(
        store_pb.SubscribeTenantRequest(), metadata=acting(ACME)
    )
    first = await call.read()  # a first sign of life: what comes now is told
    copy, *_ = await asyncio.gather(
        import_lines(store, exported), *(store.start_conversation() for _ in range(20))
    )
    told: list[int] = []
    async with asyncio.timeout(PATIENCE):
        while len(told) < copy.head_sequence:
            item = (await call.read()).item
            events = item.events.events
            told += [e.sequence for e in events if e.conversation_id == copy.conversation_id]
    assert told == list(range(1, copy.head_sequence + 1))
    assert first is not None
    call.cancel()


async def test_another_tenants_conversation_is_not_exported(store: RunningStore) -> None:
    conversation = await store.start_conversation()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await export(store, conversation.conversation_id, OTHER)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (at(0, agentmesh="x"), "lines[1].agentmesh"),
        (at(0, version=2), "lines[1].version"),
        (inside(0, "conversation", conversation_id=""), "lines[1].conversation.conversation_id"),
        (inside(0, "conversation", status="NONE"), "lines[1].conversation"),
        (at(0, conversation=[]), "lines[1].conversation"),
        (inside(0, "state", unread=[99]), "lines[1].state.unread[0]"),
        (inside(0, "state", inbox_read=-1), "lines[1].state.inbox_read"),
        (inside(2, "event", sequence="7"), "lines[3].event.sequence"),
        (inside(2, "event", conversation_id="conv_x"), "lines[3].event.conversation_id"),
        (inside(2, "event", nonsense=1), "lines[3].event"),
        (at(2, event_bytes="///"), "lines[3].event_bytes"),
        (at(2, event_bytes=base64.b64encode(b"\xff").decode()), "lines[3].event_bytes"),
        (lambda lines: lines.pop(2), "lines[3].event.sequence"),
        (lambda lines: lines.insert(2, {"strange": 1}), "lines[3]"),
        (lambda lines: lines.insert(2, 7), "lines[3]"),
        (lambda lines: lines.append({"end": {}}), "lines[6]"),
        (inside(-1, "end", head_sequence=9), "lines[5].end.head_sequence"),
        (
            lambda lines: lines.insert(1, {"blob": {"digest": "0" * 64, "size_bytes": 0}}),
            "lines[2].blob.digest",
        ),
        (
            lambda lines: lines.insert(1, {"blob": {"digest": "0" * 64, "size_bytes": 5}}),
            "lines[3]",
        ),
        (
            lambda lines: lines.insert(1, {"checkpoint": {"base_checkpoint_id": "x"}}),
            "lines[2].checkpoint.base_checkpoint_id",
        ),
        (
            lambda lines: lines[3]["event"]["message"].update(
                parts=[{"blob": {"digest": "0" * 64}}]
            ),
            "lines[4].event",
        ),
    ],
)
async def test_what_cannot_be_read_is_named_and_leaves_nothing(
    store: RunningStore, spoil: Spoil, field: str
) -> None:
    await refused_for(store, spoil, field)


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.9, -2])
async def test_an_export_that_was_cut_off_is_refused(store: RunningStore, cut: float) -> None:
    cid = (await store.start_conversation()).conversation_id
    data = await export(store, cid)
    data = data[: round(len(data) * cut) if isinstance(cut, float) else cut]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await import_lines(store, data)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await nothing_but(store, cid)


async def test_a_long_import_is_not_seen_before_it_is_complete(store: RunningStore) -> None:
    """Also: nothing of it stays when its importer leaves, and its ids are free again."""
    cid = (await store.start_conversation(task="once")).conversation_id
    lines = [json.loads(line) for line in (await export(store, cid)).splitlines()]
    header, *events, _ = lines
    for sequence in range(4, 1001):
        said = message_event(f"msg_{sequence}", f"unheard {sequence}")
        said.sequence, said.conversation_id = sequence, cid
        document = json_format.MessageToDict(said, preserving_proto_field_name=True)
        events.append({"event": document})
    header["conversation"]["head_sequence"] = "1000"
    whole = b"".join(json.dumps(line).encode() + b"\n" for line in [header, *events])
    end = json.dumps({"end": {"head_sequence": 1000}}).encode()

    async def requests() -> AsyncIterator[store_pb.ImportConversationRequest]:
        yield store_pb.ImportConversationRequest(chunk=whole)
        await nothing_but(store, cid)
        assert await _search(store, "unheard") == []
        yield store_pb.ImportConversationRequest(chunk=end)

    call = store.conversations.ImportConversation(requests(), metadata=acting(ACME))
    copy = (await call).conversation
    assert await _search(store, "unheard") == [copy.conversation_id]
    assert copy.head_sequence == 1000
    assert copy.size_bytes == sum(map(len, await _bytes(store, copy.conversation_id)))


async def _search(store: RunningStore, text: str) -> list[str]:
    request = store_pb.ListConversationsRequest(text=text)
    page = await store.conversations.ListConversations(request, metadata=acting(ACME))
    return [c.conversation_id for c in page.conversations]
