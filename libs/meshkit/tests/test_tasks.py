"""How tasks are ended."""

from __future__ import annotations

import asyncio
import logging

import pytest
from meshkit.tasks import ended, stop


async def _lingering(begun: asyncio.Event, may_end: asyncio.Event, did: list[str]) -> None:
    """Takes its time to end after it was cancelled."""
    try:
        begun.set()
        await asyncio.Event().wait()
    finally:
        await may_end.wait()
        did.append("ended")


async def _failing() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise LookupError("on the way out")


async def test_stop_returns_when_the_last_task_has_ended() -> None:
    begun, may_end, did = asyncio.Event(), asyncio.Event(), list[str]()
    tasks = [asyncio.create_task(_lingering(begun, may_end, did)) for _ in range(2)]
    await begun.wait()
    stopping = asyncio.create_task(stop(*tasks))
    for _ in range(10):
        await asyncio.sleep(0)
    stopped_early = stopping.done()
    cancelled = [task.cancelling() for task in tasks]
    may_end.set()
    await stopping
    assert not stopped_early
    # All of them were cancelled before the first was waited for.
    assert cancelled == [1, 1]
    assert did == ["ended", "ended"]
    assert all(task.cancelled() for task in tasks)


async def test_a_cancellation_of_the_one_that_stops_goes_through() -> None:
    begun, may_end, did = asyncio.Event(), asyncio.Event(), list[str]()
    task = asyncio.create_task(_lingering(begun, may_end, did))
    await begun.wait()
    went_on = False

    async def stopping() -> None:
        nonlocal went_on
        await stop(task)
        went_on = True

    stopper = asyncio.create_task(stopping())
    for _ in range(10):
        await asyncio.sleep(0)
    stopper.cancel()
    await asyncio.wait({stopper})
    assert stopper.cancelled()
    assert not went_on
    may_end.set()
    await asyncio.wait({task})
    assert did == ["ended"]


async def test_what_a_task_failed_with_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(_failing(), name="a loop")
    await asyncio.sleep(0)
    with caplog.at_level(logging.ERROR, logger="meshkit.tasks"):
        await stop(task)
    assert [record.getMessage() for record in caplog.records] == ["a loop failed"]
    assert "on the way out" in caplog.text


async def test_an_error_that_is_expected_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(_failing())
    await asyncio.sleep(0)
    await stop(task, expected=(LookupError,))
    assert caplog.records == []


async def test_a_task_that_ended_long_ago_and_no_task_are_no_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        raise LookupError("long ago")

    done = asyncio.create_task(asyncio.sleep(0))
    failed = asyncio.create_task(fails(), name="a loop")
    await asyncio.wait({done, failed})
    await stop(done, None, failed)
    await stop()
    await stop(None)
    assert "long ago" in caplog.text


async def test_ended_cancels_nothing() -> None:
    did: list[str] = []

    async def works() -> None:
        await asyncio.sleep(0.01)
        did.append("worked")

    await ended(asyncio.create_task(works()), None)
    assert did == ["worked"]
