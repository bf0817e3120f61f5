"""When leases may end."""

from __future__ import annotations

from agentmesh_conversation_store.leasing.grace import Grace


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _grace(clock: _Clock) -> Grace:
    grace = Grace(5.0, 1.0, clock)
    grace.start()
    return grace


def _pass(grace: Grace, clock: _Clock, seconds: float) -> None:
    """Time in which the database answers often."""
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        grace.answered()


def test_leases_end_one_period_after_the_start() -> None:
    clock = _Clock()
    grace = _grace(clock)
    _pass(grace, clock, 4.9)
    assert not grace.is_over
    _pass(grace, clock, 0.2)
    assert grace.is_over


def test_a_database_that_was_away_begins_the_grace_again() -> None:
    clock = _Clock()
    grace = _grace(clock)
    _pass(grace, clock, 6)
    grace.lost()
    clock.now += 60
    assert not grace.is_over
    grace.answered()
    assert not grace.is_over
    _pass(grace, clock, 4.9)
    assert not grace.is_over
    _pass(grace, clock, 0.2)
    assert grace.is_over


def test_silence_counts_as_an_outage() -> None:
    clock = _Clock()
    grace = _grace(clock)
    _pass(grace, clock, 6)
    clock.now += 0.9
    grace.answered()
    assert grace.is_over
    clock.now += 1.1
    grace.answered()
    assert not grace.is_over
    _pass(grace, clock, 5.1)
    assert grace.is_over
