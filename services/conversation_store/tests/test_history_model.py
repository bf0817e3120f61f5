"""Forks, deletion and retention against a model: a list of events for each conversation."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from agentmesh.conversation.v1 import event_pb2
from agentmesh_conversation_store.domain.conversations import CancelConversation
from agentmesh_conversation_store.domain.model import SECOND, RunStatus
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.interface import ConversationQuery
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.conversation_store.tests.histories import World
from services.conversation_store.tests.machines import OnPostgres, StorageMachine

MOST = 6


@dataclass
class Log:
    """What a conversation's log should be: all it ever had, and how much of that was removed."""

    events: list[bytes] = field(default_factory=list)
    removed: int = 0
    held: bool = False


class HistoryMachine(StorageMachine):
    """People, workers, time and the removal at work on a few conversations."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, Log] = {}
        self.settled = False  # what is shared or removed changed since all logs were read
        self.world: World

    @initialize()
    def open(self) -> None:
        self.open_storage()
        self.world = World(self.storage, self.clock)

    def teardown(self) -> None:
        self.settled = False
        self.all_is_there()
        try:
            self.delete_all()
        finally:
            super().teardown()

    def delete_all(self) -> None:
        """However it came to be: once all are gone, nothing is left."""
        for name, log in self.logs.items():
            if log.held:
                self.go(self.world.hold(name, on=False))
            self.go(self.world.delete(name))
        self.go(self.world.retention.remove_all())
        rows = self.go(self.world.rows())
        assert set(rows.values()) == {0}, rows

    def pick(self, number: int) -> str:
        """One of the conversations."""
        names = sorted(self.logs)
        return names[number % len(names)]

    def catch_up(self, name: str) -> None:
        """Notes what was appended, which is what the storage then must keep."""
        log = self.logs[name]
        head = self.go(self.world.view(name)).conversation.head_sequence
        while len(log.events) < head:
            page = self.go(self.world.storage.events("acme", name, len(log.events), 50, 10**9))
            assert page[0].sequence == len(log.events) + 1
            log.events += [event.data for event in page]

    @precondition(lambda self: len(self.logs) < MOST)
    @rule()
    def start(self) -> None:
        name = self.go(self.world.start())
        self.logs[name] = Log()
        self.catch_up(name)

    @precondition(lambda self: self.logs)
    @rule(number=st.integers(0, 20))
    def speak(self, number: int) -> None:
        name = self.pick(number)
        self.go(self.world.say(name))
        self.catch_up(name)

    @precondition(lambda self: self.logs)
    @rule(follow=st.booleans())
    def take_turns(self, follow: bool) -> None:
        waiting = [
            view
            for name in sorted(self.logs)
            if (view := self.go(self.world.view(name))).run.status is RunStatus.RUNNABLE
        ]
        for view in sorted(waiting, key=lambda view: (view.run.runnable_at or 0, view.run.run_id)):
            name = view.conversation.conversation_id
            base = view.run.checkpoint_id if follow else ""
            self.go(self.world.turn(name, base=base))
            self.catch_up(name)

    @precondition(lambda self: self.logs)
    @rule(number=st.integers(0, 20))
    def cancel(self, number: int) -> None:
        name = self.pick(number)
        self.go(self.world.storage.execute(CancelConversation("acme", name, "")))
        self.catch_up(name)

    @precondition(lambda self: 0 < len(self.logs) < MOST)
    @rule(number=st.integers(0, 20), back=st.integers(0, 30))
    def fork(self, number: int, back: int) -> None:
        source = self.pick(number)
        log = self.logs[source]
        at = len(log.events) - back
        if at <= log.removed:
            at = log.removed + 1
        name = self.go(self.world.fork(source, at))
        suffix = event_pb2.Event(conversation_id=name).SerializeToString()
        told = [_told_as(data, suffix) for data in log.events[:at]]
        self.logs[name] = Log(told, log.removed)
        self.catch_up(name)
        self.settled = False

    @precondition(lambda self: self.logs)
    @rule(number=st.integers(0, 20))
    def delete(self, number: int) -> None:
        name = self.pick(number)
        if self.logs[name].held:
            with pytest.raises(Rejection) as refused:
                self.go(self.world.delete(name))
            assert refused.value.reason is Reason.LEGAL_HOLD
            return
        self.go(self.world.delete(name))
        del self.logs[name]
        self.settled = False

    @precondition(lambda self: self.logs)
    @rule(number=st.integers(0, 20))
    def hold(self, number: int) -> None:
        log = self.logs[self.pick(number)]
        log.held = not log.held
        self.go(self.world.hold(self.pick(number), on=log.held))

    @rule(limit=st.integers(1, 10))
    def remove_some(self, limit: int) -> None:
        removed = self.go(self.world.storage.remove_some(limit))
        self.settled = self.settled and removed is None

    @rule(seconds=st.sampled_from([1, 10, 100]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(events=st.sampled_from([None, 1, 5, 12]), age=st.sampled_from([None, 5, 50]))
    def keep_short(self, events: int | None, age: int | None) -> None:
        limit = None if age is None else age * SECOND
        before = {name: self.go(self.world.view(name)) for name in self.logs}
        self.go(self.world.limit(retention_events=events, retention_age=limit))
        self.go(self.world.retention.apply())
        for name, view in before.items():
            log = self.logs[name]
            found = self.go(self.world.storage.heads([("acme", name)]))
            if not found:
                assert not log.held
                assert view.run.status.ended
                assert limit is not None
                assert view.conversation.last_event_at < self.clock.now - limit
                del self.logs[name]
                continue
            removed = found["acme", name].oldest - 1
            assert removed >= log.removed
            if removed > log.removed:
                assert not log.held
                assert limit is not None or len(log.events) - removed >= (events or 0)
            log.removed = removed
        self.settled = False

    @invariant()
    def all_is_there(self) -> None:
        if not self.settled:
            self.every_log_is_as_it_was_told()
            self.every_team_stands_on_a_whole_chain()
            self.those_and_no_others_are_listed()
            self.settled = True

    def every_log_is_as_it_was_told(self) -> None:
        """Byte for byte, from the oldest event that is left."""
        for name, log in self.logs.items():
            found = self.go(self.world.log(name))
            first = log.removed + 1
            assert [event.sequence for event in found] == list(range(first, len(log.events) + 1))
            assert [event.data for event in found] == log.events[log.removed :], name

    def every_team_stands_on_a_whole_chain(self) -> None:
        """What the next run begins with can be put together."""
        for name in self.logs:
            wanted = self.go(self.world.view(name)).run.checkpoint_id
            while wanted:
                found = self.go(self.world.storage.checkpoints("acme", [wanted]))
                assert found, f"{name} lost {wanted}"
                wanted = found[0].base_id

    def those_and_no_others_are_listed(self) -> None:
        """What was deleted is not."""
        listed = self.go(self.world.storage.conversations("acme", ConversationQuery(100)))
        assert {view.conversation.conversation_id for view in listed} == set(self.logs)


def _told_as(data: bytes, suffix: bytes) -> bytes:
    """An event of the source as the fork tells it: what another fork added is not kept."""
    event = event_pb2.Event.FromString(data)
    added = event_pb2.Event(conversation_id=event.conversation_id).SerializeToString()
    # Its own bytes hold the id of the log that it lies in, at their place and not at the end.
    return data.removesuffix(added) + suffix


class PostgresHistoryMachine(OnPostgres, HistoryMachine):
    """The same on Postgres."""


def test_histories_on_sqlite_are_as_the_model_says() -> None:
    run_state_machine_as_test(HistoryMachine, settings=_SETTINGS)


def test_histories_on_postgres_are_as_the_model_says(postgres_url: str) -> None:
    PostgresHistoryMachine.url = postgres_url
    run_state_machine_as_test(PostgresHistoryMachine, settings=_SETTINGS)


_SETTINGS = settings(
    max_examples=10,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
