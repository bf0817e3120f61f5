"""Imports that come twice, and imports of one thing that meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.search import words_of
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.transfer import Arrivals
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.histories import World
from services.conversation_store.tests.support import (
    ACME,
    OTHER,
    ManualClock,
    acting,
    fresh,
    store_pb,
)
from services.conversation_store.tests.transfers import export, import_lines


async def _ids(store: RunningStore) -> set[str]:
    request = store_pb.ListConversationsRequest()
    page = await store.conversations.ListConversations(request, metadata=acting(ACME))
    return {conversation.conversation_id for conversation in page.conversations}


def _feed(store: RunningStore, token: str = "") -> Any:
    request = store_pb.SubscribeTenantRequest(resume_token=token)
    return store.conversations.SubscribeTenant(request, metadata=acting(ACME))


async def _fed(store: RunningStore, token: str, conversation_id: str) -> set[str]:
    """Whose events the tenant's feed has, from a token to something that is said now."""
    said = (await store.send(conversation_id)).message_id
    call = _feed(store, token)
    found: set[str] = set()
    async for response in call:
        for event in response.item.events.events:
            found.add(event.conversation_id)
            if event.message.message_id == said:
                return found
    raise AssertionError("the feed ended")


async def test_an_import_that_is_repeated_brings_one_conversation(store: RunningStore) -> None:
    feed = _feed(store)
    token = (await feed.read()).item.resume_token
    feed.cancel()
    cid = (await store.start_conversation()).conversation_id
    data = await export(store, cid)
    first = await import_lines(store, data, request_id="once")
    # Cut elsewhere, it is the same request.
    again = await import_lines(store, data, request_id="once", size=77)
    assert again == first
    together = await asyncio.gather(
        *(import_lines(store, data, request_id="together") for _ in range(3))
    )
    assert len({copy.conversation_id for copy in together}) == 1
    expected = {cid, first.conversation_id, together[0].conversation_id}
    assert await _ids(store) == expected
    assert await _fed(store, token, cid) == expected
    # Of another tenant it is another request.
    other = await import_lines(store, data, OTHER, request_id="once")
    assert other.conversation_id not in expected


async def test_another_export_under_the_same_id_is_refused(store: RunningStore) -> None:
    cid = (await store.start_conversation()).conversation_id
    data = await export(store, cid)
    await import_lines(store, data, request_id="once")
    before = await _ids(store)
    await store.send(cid)
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await import_lines(store, await export(store, cid), request_id="once")
    assert await _ids(store) == before


@pytest.mark.parametrize("second", ["again", "\0"])
async def test_the_id_belongs_into_the_first_request(store: RunningStore, second: str) -> None:
    cid = (await store.start_conversation()).conversation_id
    data = await export(store, cid)

    async def requests() -> AsyncIterator[store_pb.ImportConversationRequest]:
        first = "" if second == "again" else second
        yield store_pb.ImportConversationRequest(chunk=data[:50], request_id=first)
        yield store_pb.ImportConversationRequest(chunk=data[50:], request_id=second)

    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="request_id"):
        await store.conversations.ImportConversation(requests(), metadata=acting(ACME))
    assert await _ids(store) == {cid}


async def test_a_run_is_brought_by_one_import_at_a_time(storage: Storage) -> None:
    run_id = fresh("run")
    assert await storage.begin_import("acme", fresh("conv"), run_id)
    assert not await storage.begin_import("other", other := fresh("conv"), run_id)
    assert await storage.begin_import("other", other, fresh("run"))


def _part(size: int) -> Arrivals:
    events = [StoredEvent(n, "message", "run_i", "a", f"msg_{n}", 1, b"x") for n in range(1, size)]
    return Arrivals(events, [(1, words_of("lost words"))])


async def test_an_import_that_is_given_up_takes_no_more_and_leaves_nothing(
    storage: Storage, clock: ManualClock
) -> None:
    world, cid, run_id = World(storage, clock), fresh("conv"), fresh("run")
    before = await world.rows()
    assert await storage.begin_import("acme", cid, run_id)
    await storage.add_arrivals("acme", cid, _part(9))
    assert (await world.rows())["events"] == before["events"] + 8
    await storage.give_up_import("acme", cid)
    with pytest.raises(Rejection) as refused:
        await storage.add_arrivals("acme", cid, _part(2))
    assert refused.value.reason is Reason.NOT_FOUND
    # Until its rows are gone nobody may write among them; the run can be brought anew.
    assert not await storage.begin_import("acme", cid, fresh("run"))
    await world.retention.remove_all()
    assert await world.rows() == before
    assert await storage.begin_import("acme", cid, run_id)


async def test_an_import_of_which_nothing_is_heard_is_given_up_after_an_hour(
    storage: Storage, clock: ManualClock
) -> None:
    cid = fresh("conv")
    assert await storage.begin_import("acme", cid, fresh("run"))
    for _ in range(2):  # it is the silence that counts
        clock.advance(3599)
        await storage.prune()
        await storage.add_arrivals("acme", cid, Arrivals())
    clock.advance(3601)
    await storage.prune()
    with pytest.raises(Rejection) as refused:
        await storage.add_arrivals("acme", cid, _part(2))
    assert refused.value.reason is Reason.NOT_FOUND
