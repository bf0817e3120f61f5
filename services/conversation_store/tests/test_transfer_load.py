"""Export and import leave the store to others: its event loop, its memory and its slots."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from agentmesh.conversation.v1 import event_pb2
from agentmesh.conversation_store.v1 import blob_service_pb2, blob_service_pb2_grpc
from agentmesh_conversation_store.codec.lines import Fields, message_line
from agentmesh_conversation_store.servicers.intake import IMPORTS_AT_ONCE, UPLOADS_AT_ONCE
from google.protobuf import json_format
from meshkit.errors import from_rpc_error

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import ACME, PATIENCE, acting, store_pb
from services.conversation_store.tests.transfers import (
    Spoil,
    at,
    export,
    inside,
    of_run,
    refused_for,
)

GIB = 1 << 30


def _import(store: RunningStore, data: bytes, go_on: asyncio.Event) -> Any:
    async def requests() -> AsyncIterator[store_pb.ImportConversationRequest]:
        yield store_pb.ImportConversationRequest(chunk=data[:-1])
        await go_on.wait()
        yield store_pb.ImportConversationRequest(chunk=data[-1:])

    return store.conversations.ImportConversation(requests(), metadata=acting(ACME))


def _upload(store: RunningStore, data: bytes, go_on: asyncio.Event) -> Any:
    stub: Any = blob_service_pb2_grpc.BlobServiceStub(store.channel)

    async def requests() -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
        yield blob_service_pb2.UploadBlobRequest(size_bytes=len(data), chunk=data[:1])
        await go_on.wait()
        yield blob_service_pb2.UploadBlobRequest(chunk=data[1:])

    return stub.UploadBlob(requests(), metadata=acting(ACME))


async def _all_but_one(begin: Callable[[asyncio.Event], Any], most: int) -> None:
    """Begins one call too many: that one is told to come back, the others end well."""
    go_on = asyncio.Event()
    calls = [asyncio.ensure_future(begin(go_on)) for _ in range(most + 1)]
    (refused,), others = await asyncio.wait(
        calls, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
    )
    error = refused.exception()
    assert isinstance(error, grpc.aio.AioRpcError)
    found = from_rpc_error(error)
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert found.reason_name == "OVERLOADED"
    assert found.retry_after
    go_on.set()
    await asyncio.gather(*others)
    await begin(go_on)  # their places are free again


async def test_one_import_too_many_is_told_to_come_back(store: RunningStore) -> None:
    data = await export(store, (await store.start_conversation()).conversation_id)
    await _all_but_one(lambda go_on: _import(store, data, go_on), IMPORTS_AT_ONCE)


async def test_one_upload_too_many_is_told_to_come_back(store: RunningStore) -> None:
    await _all_but_one(lambda go_on: _upload(store, b"bytes", go_on), UPLOADS_AT_ONCE)


async def test_lines_are_read_and_written_beside_the_event_loop(
    store: RunningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = (await store.start_conversation()).conversation_id
    seen: dict[str, set[threading.Thread]] = {}

    def watched(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            seen.setdefault(name, set()).add(threading.current_thread())
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, call)

    for name in ("MessageToDict", "ParseDict"):
        watched(json_format, name)
    data = await export(store, cid)
    watched(Fields, "of_line")
    assert set(seen) == {"MessageToDict", "ParseDict"}
    go_on = asyncio.Event()
    go_on.set()
    await _import(store, data, go_on)
    assert set(seen) == {"MessageToDict", "ParseDict", "of_line"}
    assert threading.current_thread() not in set().union(*seen.values())


async def test_many_empty_lines_say_nothing(store: RunningStore) -> None:
    data = await export(store, (await store.start_conversation()).conversation_id)
    header, _, rest = data.partition(b"\n")
    go_on = asyncio.Event()
    go_on.set()
    imported = await _import(store, header + b"\n" * 100_000 + b" \n" + rest, go_on)
    assert imported.conversation.head_sequence == 3


def test_an_event_whose_json_is_too_long_is_written_as_bytes() -> None:
    event = event_pb2.Event(sequence=1)
    event.message.content = "\x01" * 1000  # six characters each in JSON
    data = event.SerializeToString()
    whole, short = (message_line("event", event, data, most) for most in (10_000, 2000))
    assert len(short) < 2000 < len(whole)
    assert json.loads(short)["event"] == {}
    for text in (whole, short):
        assert Fields.of_line(1, text).message("event", event_pb2.Event)[0] == event


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (
            lambda lines: lines.insert(1, {"blob": {"digest": "0" * 64, "size_bytes": 6 * GIB}}),
            "lines[2].blob.size_bytes",
        ),
        (
            lambda lines: lines.insert(1, {"checkpoint": {"size_bytes": (64 << 20) + 1}}),
            "lines[2].checkpoint.size_bytes",
        ),
        (inside(0, "conversation", task=""), "lines[1].conversation.task"),
        (inside(0, "conversation", task="x" * (1 << 20) + "x"), "lines[1].conversation.task"),
        (
            inside(0, "conversation", labels={str(n): "" for n in range(65)}),
            "lines[1].conversation.labels",
        ),
        (inside(0, "conversation", agents=["a", ""]), "lines[1].conversation.agents[1]"),
        (inside(0, "conversation", agents=["a"] * 1025), "lines[1].conversation.agents"),
        (inside(0, "conversation", workflow="w" * 129), "lines[1].conversation.workflow"),
        (of_run(max_rounds=0), "lines[1].conversation.run.max_rounds"),
        (of_run(timeout="0s"), "lines[1].conversation.run.timeout"),
        (inside(0, "definition", participants=[{}] * 65), "lines[1].definition.participants"),
        (inside(0, "state", unread=[1, 2, 3, 1]), "lines[1].state.unread"),
        (at(2, padding="x" * (8 << 20)), "lines[3]"),
        (
            lambda lines: lines[3]["event"]["message"].update(content="x" * (4 << 20)),
            "lines[4].event",
        ),
    ],
)
async def test_what_is_too_much_is_named_and_leaves_nothing(
    store: RunningStore, spoil: Spoil, field: str
) -> None:
    await refused_for(store, spoil, field)
