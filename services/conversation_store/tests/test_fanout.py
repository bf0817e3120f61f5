"""What every fan-out does, and how its notices travel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import get_args

import pytest
import pytest_asyncio
from agentmesh.conversation_store.v1 import notice_pb2
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import RaisedFence, RunStatus
from agentmesh_conversation_store.fanout import wire
from agentmesh_conversation_store.fanout.in_process import InProcessFanout
from agentmesh_conversation_store.fanout.interface import (
    ChangedRun,
    DeltasMade,
    EventsCommitted,
    Fanout,
    FencesRaised,
    LiveDelta,
    Notice,
    NoticesMissed,
    RunsChanged,
    TextWanted,
)
from agentmesh_conversation_store.fanout.outbox import Outbox
from agentmesh_conversation_store.fanout.redis import RedisFanout
from agentmesh_conversation_store.fanout.seal import Seal
from agentmesh_conversation_store.storage.interface import Head

from services.conversation_store.tests.support import PATIENCE, fresh

SEAL = Seal(lambda: [b"a key that replicas share"])


@dataclass
class Ear:
    """Keeps what a fan-out tells."""

    heard: list[Notice] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, notice: Notice) -> None:
        self.heard.append(notice)
        self._more.set()

    def listen_to(self, fanout: Fanout) -> None:
        """Hears every kind of notice."""
        for kind in get_args(Notice):
            fanout.listen(kind, self)

    @property
    def told(self) -> list[Notice]:
        """What replicas told each other."""
        return [n for n in self.heard if not isinstance(n, NoticesMissed | TextWanted)]

    async def until(self, condition: Callable[[Ear], bool]) -> None:
        """Waits for it."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self):
                self._more.clear()
                await self._more.wait()

    async def connected(self, conversation_id: str) -> None:
        """Waits until notices about a followed conversation and those for all arrive."""
        followed = NoticesMissed([("acme", conversation_id)])
        await self.until(lambda ear: followed in ear.heard and NoticesMissed() in ear.heard)


def delta(first: int = 0, **changes: object) -> LiveDelta:
    """A piece of a message."""
    values: dict[str, object] = {
        "run_id": "run_1",
        "turn": 1,
        "message_id": "msg_1",
        "agent": "a",
        "kind": 1,
        "text": f"{first} ",
        "fence": 1,
        "first_index": first,
        "last_index": first,
        "after_sequence": 0,
        "tool": "",
    }
    return LiveDelta(**(values | changes))  # type: ignore[arg-type]  # its fields


def grown(conversation_id: str, sequence: int, data: bytes = b"bytes") -> EventsCommitted:
    """A log grew by one event."""
    event = StoredEvent(sequence, "message", "run_1", "a", f"msg_{sequence}", 1, data)
    head = Head(sequence, 1, active=True)
    return EventsCommitted(
        "acme", conversation_id, head, [event], [event.message_id], [("run_1", 1)], sequence
    )


@dataclass
class Pair:
    """Who publishes and who hears; the same one, or two replicas."""

    speaker: Fanout
    hearer: Fanout
    ear: Ear
    conversation_id: str


@pytest_asyncio.fixture(params=["in process", "redis, itself", "redis, another"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """A fan-out of each kind. The hearer follows one conversation."""
    prefix = fresh("mesh")

    def replica() -> Fanout:
        if request.param == "in process":
            return InProcessFanout()
        return RedisFanout(request.getfixturevalue("redis_url"), prefix, SEAL)

    speaker = replica()
    hearer = replica() if request.param == "redis, another" else speaker
    ear, conversation_id = Ear(), fresh("conv")
    ear.listen_to(hearer)
    replicas: list[Fanout] = [speaker] if speaker is hearer else [speaker, hearer]
    for one in replicas:
        await one.start()
    if hearer.follow("acme", conversation_id):
        await ear.connected(conversation_id)
    yield Pair(speaker, hearer, ear, conversation_id)
    for one in replicas:
        await one.stop()


async def test_every_notice_is_heard_once_in_order_and_unchanged(pair: Pair) -> None:
    fence = RaisedFence("acme", pair.conversation_id, "run_1", 7, "enough", 1_800_000_000_000_001)
    told: list[Notice] = []
    for number in range(1, 300):
        told.append(grown(pair.conversation_id, number, b"\x00\xff" * number))
        told.append(DeltasMade("acme", pair.conversation_id, [delta(number), delta(number + 1)]))
    others: list[Notice] = [
        RunsChanged([ChangedRun("run_1", RunStatus.LEASED, 3, "worker")]),
        FencesRaised([fence]),
    ]
    for notice in (*told, *others):
        pair.speaker.publish(notice)
    await pair.ear.until(lambda ear: len(ear.told) >= len(told) + len(others))
    # Once more around: whatever would come twice has come by then.
    pair.speaker.publish(grown(pair.conversation_id, 1000))
    await pair.ear.until(lambda ear: grown(pair.conversation_id, 1000) in ear.told)
    about = [n for n in pair.ear.told if isinstance(n, EventsCommitted | DeltasMade)]
    assert about == [*told, grown(pair.conversation_id, 1000)]
    rest = [n for n in pair.ear.told if not isinstance(n, EventsCommitted | DeltasMade)]
    assert rest == others


async def test_a_listener_that_fails_keeps_nobody_from_hearing(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(notice: Notice) -> None:
        raise RuntimeError("a defect")

    after = Ear()
    pair.hearer.listen(EventsCommitted, fail)
    after.listen_to(pair.hearer)
    pair.speaker.publish(grown(pair.conversation_id, 1))
    pair.speaker.publish(grown(pair.conversation_id, 2))
    await after.until(lambda ear: len(ear.told) == 2)
    assert "a listener failed" in caplog.text


async def test_a_publisher_never_waits_for_a_listener_that_is_busy(pair: Pair) -> None:
    for number in range(1, 5001):
        pair.speaker.publish(DeltasMade("acme", pair.conversation_id, [delta(number)]))
    await pair.ear.until(lambda ear: len(ear.told) == 5000)
    indices = [n.deltas[0].first_index for n in pair.ear.told if isinstance(n, DeltasMade)]
    assert indices == list(range(1, 5001))


def _round_trip(*notices: Notice) -> list[Notice]:
    return list(wire.decoded(wire.encoded("a", notices), "b"))


def test_what_a_replica_said_itself_is_not_news() -> None:
    data = wire.encoded("a", [grown("conv_1", 1)])
    assert list(wire.decoded(data, "a")) == []
    assert list(wire.decoded(data, "b")) == [grown("conv_1", 1)]


def test_text_of_several_messages_keeps_its_order() -> None:
    deltas = [
        delta(0),
        delta(1, tool="shell", kind=3, after_sequence=9),
        delta(0, message_id="msg_2"),
        delta(2),
        delta(0, fence=2),
    ]
    assert _round_trip(DeltasMade("acme", "conv_1", deltas)) == [
        DeltasMade("acme", "conv_1", deltas)
    ]


def test_a_newer_replica_may_say_what_this_one_does_not_know() -> None:
    unknown = b"\x9a\x06\x03new"  # field 99
    batch = notice_pb2.NoticeBatch(origin="newer")
    batch.notices.add().MergeFromString(unknown)
    batch.notices.add().runs.runs.add(run_id="run_1", status=99, fence=2)
    batch.notices.add().runs.runs.add(run_id="run_2", status=1, fence=2)
    known = batch.notices.add()
    known.wanted_text.tenant = "acme"
    known.MergeFromString(unknown)
    assert list(wire.decoded(batch.SerializeToString() + unknown, "b")) == [
        RunsChanged([]),
        RunsChanged([ChangedRun("run_2", RunStatus.RUNNABLE, 2, "")]),
        TextWanted("newer", "acme", ""),
    ]


def _numbers(outbox: Outbox) -> list[tuple[str, int]]:
    taken = outbox.take(100, 10**9)
    return [(type(entry.notice).__name__, entry.number) for entry in taken]


def test_a_full_outbox_drops_old_text_first_and_then_old_notices() -> None:
    outbox = Outbox(max_notices=4)
    text, notice = DeltasMade("acme", "conv_1", [delta()]), grown("conv_1", 1)
    for entry in (notice, text, notice, text):
        outbox.put("channel", entry)
    outbox.put("channel", notice)
    outbox.put("channel", notice)
    assert [number for _, number in _numbers(outbox)] == [1, 3, 5, 6]
    for _ in range(6):
        outbox.put("channel", notice)
    assert [number for _, number in _numbers(outbox)] == [9, 10, 11, 12]
    assert outbox.dropped == 4


def test_an_outbox_is_bounded_in_bytes_and_takes_back_in_order() -> None:
    outbox = Outbox(max_bytes=10_000)
    for sequence in range(1, 6):
        outbox.put("channel", grown("conv_1", sequence, b"x" * 3000))
    taken = outbox.take(2, 10**9)
    outbox.put("channel", grown("conv_1", 6))
    outbox.put_back(taken)
    assert [number for _, number in _numbers(outbox)] == [3, 4, 5, 6]
    assert not len(outbox)
