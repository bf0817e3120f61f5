"""Pieces that arrive when their turn is over: nothing may be kept for them."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from agentmesh_conversation_store.domain.model import RaisedFence, RunStatus
from agentmesh_conversation_store.fanout.in_process import InProcessFanout
from agentmesh_conversation_store.fanout.interface import (
    ChangedRun,
    DeltasMade,
    EventsCommitted,
    FencesRaised,
    LiveDelta,
    RunsChanged,
)
from agentmesh_conversation_store.storage.interface import Head, Storage
from agentmesh_conversation_store.subscriptions import registry
from agentmesh_conversation_store.subscriptions.registry import Subscriptions


class _World:
    def __init__(self) -> None:
        self.fanout = InProcessFanout()
        # Nobody subscribes here, so that nothing is read.
        storage = cast("Storage", None)
        self.subscriptions = Subscriptions(storage, self.fanout, heartbeat=60, head_check=60)

    def end(self, run_id: str, turn: int) -> None:
        head = Head(4, 1, active=False)
        self.fanout.publish(EventsCommitted("acme", "conv_1", head, (), (), [(run_id, turn)]))

    def write(self, run_id: str, turn: int, message_id: str = "m") -> bool:
        """Whether a piece is kept."""
        delta = LiveDelta(run_id, turn, message_id, "a", 1, "text", 1, 0, 0, 0, "")
        self.fanout.publish(DeltasMade("acme", "conv_1", [delta]))
        hub = self.subscriptions._hubs.get(("acme", "conv_1"))
        return hub is not None and hub.live.get(message_id) is not None


@pytest.mark.parametrize("ended", [2, 2**31])
def test_a_piece_after_the_end_of_its_turn_makes_no_hub(ended: int) -> None:
    world = _World()
    world.end("r", ended)
    assert not world.write("r", 1)
    assert not world.write("r", 2)
    assert not world.subscriptions._hubs


def test_the_next_turn_and_other_runs_are_heard() -> None:
    world = _World()
    world.end("r", 2)
    world.end("r", 1)
    assert not world.write("r", 2)
    assert world.write("r", 3)
    assert world.write("other", 1, "m2")


def test_what_is_remembered_is_bounded() -> None:
    world = _World()
    for number in range(registry.REMEMBERED + 10):
        world.end(f"r{number}", 1)
    assert len(world.subscriptions._ended_turns) == registry.REMEMBERED
    assert not world.write(f"r{registry.REMEMBERED}", 1)


def test_an_older_notice_lowers_no_fence() -> None:
    world = _World()
    for fence in (5, 2):
        world.fanout.publish(RunsChanged([ChangedRun("r", RunStatus.RUNNABLE, fence, "")]))
    assert not world.write("r", 1)
    raised = RaisedFence("acme", "conv_1", "other", 5, "", 0)
    world.fanout.publish(FencesRaised([raised]))
    world.fanout.publish(FencesRaised([replace(raised, fence=1)]))
    assert not world.write("other", 1)


def test_a_conversation_that_needs_no_hub_is_not_followed() -> None:
    world = _World()
    assert world.write("r", 1)
    assert world.subscriptions._hubs
    world.end("r", 1)
    assert not world.subscriptions._hubs
