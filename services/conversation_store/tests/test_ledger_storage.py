"""The ledger in every storage: what was consumed, and who did what."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh.conversation.v1 import event_pb2
from agentmesh_conversation_store.domain.attempts import Tick
from agentmesh_conversation_store.domain.conversations import CancelConversation
from agentmesh_conversation_store.domain.events import WorkerEvent
from agentmesh_conversation_store.domain.ledger import (
    DAY,
    HOUR,
    Dimension,
    UsageQuery,
)
from agentmesh_conversation_store.domain.model import SECOND, Run, StepKind
from agentmesh_conversation_store.domain.usage import NO_USAGE, Usage
from agentmesh_conversation_store.storage.interface import (
    Storage,
)

from services.conversation_store.tests.ledger import agrees, allow, sums
from services.conversation_store.tests.support import ManualClock, start_command
from services.conversation_store.tests.work import (
    LEASE,
    RETRIES,
    SPENT,
    begin,
    commit,
    leased,
    record,
)

# --- usage -----------------------------------------------------------------------------------


async def test_usage_is_summed_by_every_dimension(storage: Storage, clock: ManualClock) -> None:
    run = await leased(storage)
    await storage.execute(begin(run))
    await storage.execute(record(run))
    tool = Usage(tool_calls=1, sandbox_cpu_ms=9)
    await storage.execute(begin(run, "call", kind=StepKind.TOOL))
    await storage.execute(record(run, "call", usage=tool, model=""))
    clock.now += DAY
    other = await leased(storage)
    await storage.execute(begin(other))
    reader = [WorkerEvent("message", event_pb2.Event(), "reader")]
    await storage.execute(record(other, events=reader, model="m-2"))
    both = SPENT.plus(tool)
    assert await sums(storage, Dimension.TOTAL) == {"": both.plus(SPENT)}
    assert await sums(storage, Dimension.AGENT) == {"writer": both, "reader": SPENT}
    assert await sums(storage, Dimension.MODEL) == {"": tool, "m-1": SPENT, "m-2": SPENT}
    assert await sums(storage, Dimension.CONVERSATION) == {
        run.conversation_id: both,
        other.conversation_id: SPENT,
    }
    today = clock.now - clock.now % DAY
    assert await sums(storage, Dimension.DAY) == {today - DAY: both, today: SPENT}
    await agrees(storage, run.conversation_id, other.conversation_id)
    assert await sums(storage, Dimension.CONVERSATION, "other") == {}


async def test_a_span_takes_hours_by_their_beginning(storage: Storage, clock: ManualClock) -> None:
    clock.now -= clock.now % HOUR
    for _ in range(3):
        run = await leased(storage)
        await storage.execute(begin(run))
        await storage.execute(record(run))
        clock.now += HOUR
    start = clock.now - 3 * HOUR

    async def calls(since: int | None, until: int | None) -> int:
        query = UsageQuery(Dimension.TOTAL, 10, since, until)
        return sum(one.usage.model_calls for one in await storage.summarize_usage("acme", query))

    assert await calls(None, None) == 3
    assert await calls(start, start + HOUR) == 1
    assert await calls(start + 1, None) == 2
    assert await calls(None, start + HOUR + 1) == 2
    assert await calls(start + 3 * HOUR, None) == 0


async def test_sums_come_in_pages(storage: Storage) -> None:
    for number in range(5):
        run = await leased(storage)
        await storage.execute(begin(run))
        await storage.execute(record(run, model=f"m-{number}"))
    keys: list[Any] = []
    while True:
        after = keys[-1] if keys else None
        page = await storage.summarize_usage("acme", UsageQuery(Dimension.MODEL, 2, after=after))
        keys += [one.key for one in page]
        if len(page) < 2:
            break
    assert keys == [f"m-{number}" for number in range(5)]


@pytest.mark.parametrize("how", ["taken over", "committed", "discarded", "cancelled", "deadline"])
async def test_lost_work_is_in_the_ledger_as_in_the_conversation(
    storage: Storage, clock: ManualClock, how: str
) -> None:
    wanted = Usage(input_tokens=400, cost_micros=40)
    run = await leased(storage, timeout=3600 * SECOND)
    await storage.execute(begin(run, "done"))
    await storage.execute(record(run, "done"))
    await storage.execute(begin(run, reservation=wanted))
    if how == "taken over":
        clock.advance(6)
        await storage.execute(Tick("acme", run.conversation_id, run.run_id, RETRIES))
        (run,) = await storage.grant({"other": 1}, LEASE)
        await storage.execute(begin(run, take_over=True, reservation=wanted))
        await storage.execute(record(run))
    elif how == "committed":
        await storage.execute(commit(run))
    elif how == "discarded":
        await storage.execute(commit(run, discard=True, checkpoint=None))
    elif how == "cancelled":
        await storage.execute(CancelConversation("acme", run.conversation_id, "enough"))
    else:
        clock.advance(3601)
        await storage.execute(Tick("acme", run.conversation_id, run.run_id, RETRIES))
    shown = (await storage.conversation("acme", run.conversation_id)).conversation.usage
    assert shown.estimated
    assert shown.input_tokens >= 400 + SPENT.input_tokens
    await agrees(storage, run.conversation_id)
    # Nothing is held for work that is over: a budget of what was used and one more token fits.
    await allow(storage, max_tokens=(await _used(storage)).tokens + 1)
    fresh_run = await _next(storage)
    await storage.execute(begin(fresh_run, "more", reservation=Usage(input_tokens=1)))


async def _next(storage: Storage) -> Run:
    await storage.execute(start_command())
    for run in await storage.grant({"fresh": 9}, LEASE):
        last = run
    return last


async def _used(storage: Storage) -> Usage:
    return (await sums(storage, Dimension.TOTAL)).get("", NO_USAGE)


async def test_recording_twice_is_booked_once(storage: Storage) -> None:
    run = await leased(storage)
    await storage.execute(begin(run))
    await storage.execute(record(run))
    await storage.execute(record(run))
    assert await _used(storage) == SPENT
