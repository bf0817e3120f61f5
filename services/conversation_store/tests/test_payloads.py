"""Large parts of messages: in blobs, referred to, and gone when nothing refers to them."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.conversation.v1 import event_pb2, message_pb2
from agentmesh_conversation_store.blobs.collecting import YOUNG, Collector
from agentmesh_conversation_store.blobs.location import open_place
from agentmesh_conversation_store.blobs.object_store import ObjectStoreBlobs
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.conversations import SendMessage
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.model import BlobReference, Strategy
from agentmesh_conversation_store.domain.rejections import Rejection
from agentmesh_conversation_store.servicers.payloads import (
    JSON,
    LARGEST_IMAGE,
    PREVIEW,
    TEXT,
    Payloads,
)
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.sqlite import SqliteStorage
from google.protobuf.struct_pb2 import Struct
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import ACME, OTHER, start_command
from services.conversation_store.tests.test_blobs import chunks
from services.conversation_store.tests.uploads import download, upload

Part = message_pb2.Part
LONG = "żółw " * 60_000
"""More than 256 KiB; a cut at 4 KiB falls into a character."""


def is_preview(text: str) -> bool:
    """True for the beginning of LONG, with its note."""
    start, _, note = text.partition("\n")
    size = len(LONG.encode())
    return LONG.startswith(start) and len(start.encode()) <= PREVIEW and str(size) in note


async def whole(store: RunningStore, blob: message_pb2.BlobPart) -> str:
    """What a reference refers to, after looking at what it says of it."""
    data = await download(store, blob.digest)
    assert blob.size_bytes == len(data)
    return data.decode()


async def said(store: RunningStore, *parts: Part, content: str = "") -> message_pb2.Message:
    """What the log has after an agent said this."""
    conversation = await store.start_conversation()
    turn = await (await store.worker()).granted()
    message = message_pb2.Message(
        message_id="msg_1",
        role=message_pb2.MESSAGE_ROLE_AGENT,
        agent="writer",
        content=content,
        parts=parts,
    )
    await turn.begin()
    await turn.record(events=[event_pb2.Event(agent="writer", message=message)])
    await turn.commit()
    log = await store.log(conversation.conversation_id)
    messages: list[message_pb2.Message] = [event.message for event in log if event.message.agent]
    assert log[-1].sequence == len(log)
    assert messages[-1].message_id == "msg_1"
    return messages[-1]


async def test_a_long_text_is_kept_outside(store: RunningStore) -> None:
    message = await said(store, Part(text=message_pb2.TextPart(text=LONG)), content=LONG)
    [part] = message.parts
    assert part.blob.media_type == TEXT
    assert await whole(store, part.blob) == LONG
    assert is_preview(message.content)
    assert message.ByteSize() < 2 * PREVIEW


async def test_long_words_without_parts_are_kept_outside(store: RunningStore) -> None:
    message = await said(store, content=LONG)
    assert await whole(store, message.parts[0].blob) == LONG
    assert is_preview(message.content)


async def test_what_is_short_stays(store: RunningStore) -> None:
    text = "x" * (256 * 1024)
    message = await said(store, Part(text=message_pb2.TextPart(text=text)), content=text)
    assert message.content == message.parts[0].text.text == text


async def test_a_long_tool_result_keeps_what_it_is(store: RunningStore) -> None:
    result = message_pb2.ToolResultPart(
        tool_call_id="call_1", tool="search", outcome=message_pb2.TOOL_OUTCOME_OK, output=LONG
    )
    message = await said(store, Part(tool_result=result), content=LONG)
    kept = message.parts[0].tool_result
    assert (kept.tool_call_id, kept.tool, kept.outcome) == ("call_1", "search", result.outcome)
    assert kept.truncated
    assert is_preview(kept.output)
    assert is_preview(message.content)
    assert await whole(store, kept.output_blob) == LONG


async def test_long_arguments_keep_their_call(store: RunningStore) -> None:
    arguments = json.dumps({"text": LONG})
    call = message_pb2.ToolCallPart(tool_call_id="c", tool="t", arguments_json=arguments)
    message = await said(store, Part(tool_call=call))
    kept = message.parts[0].tool_call
    assert (kept.tool_call_id, kept.tool) == ("c", "t")
    assert kept.arguments_blob.media_type == JSON
    assert await whole(store, kept.arguments_blob) == arguments


async def test_large_data_becomes_json(store: RunningStore) -> None:
    data = Struct()
    data.update({"words": LONG, "number": 1})
    message = await said(store, Part(data=message_pb2.DataPart(data=data)))
    blob = message.parts[0].blob
    assert blob.media_type == JSON
    assert json.loads(await whole(store, blob)) == {"words": LONG, "number": 1}


async def test_a_task_and_a_message_may_be_long(store: RunningStore) -> None:
    conversation = await store.start_conversation(task=LONG)
    assert is_preview(conversation.task)
    other = LONG[1:]
    await store.send(conversation.conversation_id, other)
    log = await store.log(conversation.conversation_id)
    task, message = [event.message for event in log if event.HasField("message")]
    assert await whole(store, task.parts[0].blob) == LONG
    assert await whole(store, message.parts[0].blob) == other
    assert len(task.parts) == len(message.parts) == 1


async def test_a_repeated_request_answers_as_the_first_time(store: RunningStore) -> None:
    conversation = await store.start_conversation(task=LONG, request_id="r1")
    again = await store.start_conversation(task=LONG, request_id="r1")
    assert again.conversation_id == conversation.conversation_id
    first = await store.send(conversation.conversation_id, LONG, request_id="r2")
    assert first == await store.send(conversation.conversation_id, LONG, request_id="r2")


async def test_an_uploaded_file_is_referred_to(store: RunningStore) -> None:
    stored = await upload(store, b"%PDF")
    conversation = await store.start_conversation()
    cid = conversation.conversation_id
    blob: dict[str, Any] = {"digest": stored.digest, "media_type": "application/pdf"}
    part = Part(blob=message_pb2.BlobPart(**blob, filename="a.pdf"))
    await store.send(cid, "read this", parts=[part])
    message = (await store.log(cid))[-1].message
    assert [p.WhichOneof("kind") for p in message.parts] == ["text", "blob"]
    assert message.parts[1].blob.size_bytes == 4
    assert message.parts[1].blob.filename == "a.pdf"
    wrong = Part(blob=message_pb2.BlobPart(**blob, size_bytes=5))
    field = "parts[0].blob.size_bytes"
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field=field):
        await store.send(cid, "read this", parts=[wrong])
    missing = Part(blob=message_pb2.BlobPart(digest=hashlib.sha256(b"no").hexdigest()))
    field = "parts[1].blob.digest"
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", field=field):
        await store.send(cid, "read this", parts=[part, missing])
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", field=field):
        await store.start_conversation(task="read this", parts=[part, missing])


async def test_a_task_comes_with_files(store: RunningStore) -> None:
    stored = await upload(store, b"GIF89a")
    blob = message_pb2.BlobPart(digest=stored.digest, media_type="image/gif", filename="a.gif")
    conversation = await store.start_conversation(task="look", parts=[Part(blob=blob)])
    log = await store.log(conversation.conversation_id)
    [message] = [event.message for event in log if event.HasField("message")]
    assert [p.WhichOneof("kind") for p in message.parts] == ["text", "blob"]
    assert message.parts[1].blob.size_bytes == 6
    assert conversation.task == message.content == "look"


async def test_an_image_has_a_largest_size(store: RunningStore) -> None:
    stored = await upload(store, bytes(LARGEST_IMAGE + 1))
    blob = message_pb2.BlobPart(digest=stored.digest, media_type="image/png")
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="parts[0].blob"):
        await store.start_conversation(task="look", parts=[Part(blob=blob)])


async def test_another_tenants_file_cannot_be_referred_to(store: RunningStore) -> None:
    stored = await upload(store, b"theirs", OTHER)
    conversation = await store.start_conversation(ACME)
    part = Part(blob=message_pb2.BlobPart(digest=stored.digest))
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await store.send(conversation.conversation_id, "read this", parts=[part])


async def test_references_are_written_with_the_event(storage: Storage) -> None:
    command = start_command()
    await storage.execute(command)
    digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(3)]
    uses = ((digests[0], 10), (digests[1], 20))
    await storage.execute(_send(command.conversation_id, uses))
    references = await storage.blob_references("acme", command.conversation_id)
    head = (await storage.conversation("acme", command.conversation_id)).conversation.head_sequence
    assert {(r.digest, r.size) for r in references} == set(uses)
    assert {r.conversation_id for r in references} == {command.conversation_id}
    assert {r.sequence for r in references} <= set(range(1, head + 1))
    assert all(isinstance(r, BlobReference) for r in references)
    assert await storage.referenced_blobs("acme", digests) == frozenset(digests[:2])
    assert await storage.referenced_blobs("other", digests) == frozenset()
    assert await storage.blob_references("other", command.conversation_id) == []


async def test_only_what_is_old_and_unused_is_collected(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "s.db", ProtobufEvents())
    await storage.open()
    blobs = ObjectStoreBlobs(open_place("", tmp_path / "blobs"))
    used = await blobs.put("acme", chunks(b"used"))
    unused = await blobs.put("acme", chunks(b"unused"))
    theirs = await blobs.put("other", chunks(b"used"))
    command = start_command()
    await storage.execute(command)
    await storage.execute(_send(command.conversation_id, ((used.digest, used.size),)))
    given = [used.digest, unused.digest, "0" * 64]
    assert await Collector(blobs, storage, YOUNG).collect("acme", given) == 0
    old = Collector(blobs, storage, timedelta(0))
    assert await old.collect("acme", given) == 1
    assert (await blobs.find("acme", used.digest)).size == used.size
    assert (await blobs.find("other", theirs.digest)).size == theirs.size
    assert await Collector(blobs, storage, YOUNG).sweep() == 0
    assert await old.sweep() == 1
    assert [blob.tenant async for blob in blobs.everything()] == ["acme"]
    await storage.close()


async def test_an_old_file_stays_from_the_moment_it_is_referred_to(tmp_path: Path) -> None:
    """Between the look at the file and the message's commit, the collector may come by."""
    storage = SqliteStorage(tmp_path / "s.db", ProtobufEvents())
    await storage.open()
    blobs = ObjectStoreBlobs(open_place("", tmp_path / "blobs"))
    command = start_command()
    await storage.execute(command)
    again = await blobs.put("acme", chunks(b"again"))
    forgotten = await blobs.put("acme", chunks(b"forgotten"))
    long_ago = (datetime.now(UTC) - 2 * YOUNG).timestamp()
    for path in (tmp_path / "blobs").rglob("*"):
        if path.name in {again.digest, forgotten.digest}:
            os.utime(path, (long_ago, long_ago))
    part = Part(blob=message_pb2.BlobPart(digest=again.digest))
    said = UserMessage("msg_1", "user", "this one again", "alice")
    message = await Payloads(blobs).user_message("acme", said, [part])
    assert await Collector(blobs, storage).sweep() == 1
    await storage.execute(_send(command.conversation_id, tuple(message.blobs)))
    assert [data async for data in blobs.read(await blobs.find("acme", again.digest))] == [b"again"]
    with pytest.raises(Rejection):
        await blobs.find("acme", forgotten.digest)
    await storage.close()


@pytest.mark.parametrize("lost", [b"", b"unused"])
async def test_a_refused_write_refers_to_nothing(store: RunningStore, lost: bytes) -> None:
    conversation = await store.start_conversation()
    before = await store.log(conversation.conversation_id)
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await store.send("conv_none", LONG + lost.decode())
    assert await store.log(conversation.conversation_id) == before
    digest = hashlib.sha256(LONG.encode() + lost).hexdigest()
    assert await download(store, digest)  # young, and left to a sweep


def _send(conversation_id: str, blobs: tuple[tuple[str, int], ...]) -> SendMessage:
    message = UserMessage("msg_1", "user", "read this", "alice", blobs=blobs)
    return SendMessage("acme", conversation_id, message, Strategy.AFTER_TURN, "run_2", "")
