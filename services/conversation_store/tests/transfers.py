"""Exports and imports as callers make them, and exports that somebody spoilt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from meshkit.errors import from_rpc_error

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import ACME, acting, store_pb


async def export(store: RunningStore, conversation_id: str, principal: Any = ACME) -> bytes:
    """All of an export."""
    request = store_pb.ExportConversationRequest(conversation_id=conversation_id)
    call = store.conversations.ExportConversation(request, metadata=acting(principal))
    return b"".join([response.chunk async for response in call])


async def import_lines(
    store: RunningStore,
    data: bytes,
    principal: Any = ACME,
    size: int = 1000,
    request_id: str = "",
) -> Any:
    """The conversation of an export that comes in chunks of `size` bytes."""

    async def requests() -> AsyncIterator[store_pb.ImportConversationRequest]:
        if request_id:
            yield store_pb.ImportConversationRequest(request_id=request_id)
        for at in range(0, len(data), size):
            yield store_pb.ImportConversationRequest(chunk=data[at : at + size])

    call = store.conversations.ImportConversation(requests(), metadata=acting(principal))
    return (await call).conversation


async def nothing_but(store: RunningStore, cid: str) -> None:
    """There is no other conversation."""
    request = store_pb.ListConversationsRequest()
    page = await store.conversations.ListConversations(request, metadata=acting(ACME))
    assert [c.conversation_id for c in page.conversations] == [cid]


Spoil = Callable[[list[Any]], Any]


def at(index: int, **changes: Any) -> Spoil:
    """Changes a line."""
    return lambda lines: lines[index].update(changes)


def inside(index: int, name: str, **changes: Any) -> Spoil:
    """Changes an object of a line."""
    return lambda lines: lines[index][name].update(changes)


def of_run(**changes: Any) -> Spoil:
    """Changes the run of the header."""
    return lambda lines: lines[0]["conversation"]["run"].update(changes)


async def refused_for(store: RunningStore, spoil: Spoil, field: str) -> None:
    """Spoils the five lines of a conversation of three events: nothing of it arrives."""
    cid = (await store.start_conversation(task="once")).conversation_id
    lines = [json.loads(line) for line in (await export(store, cid)).splitlines()]
    assert len(lines) == 5
    spoil(lines)
    data = b"\n".join(json.dumps(line).encode() for line in lines)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await import_lines(store, data)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [v.field for v in from_rpc_error(refused.value).violations] == [field]
    await nothing_but(store, cid)
