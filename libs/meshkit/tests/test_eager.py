"""Coroutines that begin at once."""

from __future__ import annotations

import asyncio

import pytest
from meshkit.eager import Begun


async def test_it_runs_up_to_its_first_wait_before_anybody_awaits_it() -> None:
    did: list[str] = []
    gate = asyncio.get_running_loop().create_future()

    async def work() -> None:
        did.append("began")
        await gate
        did.append("went on")
        await asyncio.sleep(0)
        did.append("ended")

    begun = Begun(work())
    assert did == ["began"]
    gate.set_result(None)
    await asyncio.sleep(0)
    assert did == ["began"]
    await begun
    assert did == ["began", "went on", "ended"]


async def test_what_never_waits_is_done() -> None:
    did: list[str] = []

    async def work() -> None:
        did.append("all")

    begun = Begun(work())
    assert did == ["all"]
    await begun


@pytest.mark.parametrize("waits", [False, True])
async def test_a_failure_is_raised_where_it_is_awaited(waits: bool) -> None:
    async def work() -> None:
        if waits:
            await asyncio.sleep(0)
        raise LookupError("lost")

    begun = Begun(work())
    with pytest.raises(LookupError, match="lost"):
        await begun


@pytest.mark.parametrize("forgives", [False, True])
async def test_a_cancellation_reaches_it(forgives: bool) -> None:
    did: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            did.append("cancelled")
            if not forgives:
                raise

    async def wait(begun: Begun) -> None:
        await begun

    task = asyncio.create_task(wait(Begun(work())))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert did == ["cancelled"]
    assert task.cancelled() is not forgives


async def test_failures_of_what_it_waits_for_reach_it() -> None:
    awaited = asyncio.get_running_loop().create_future()
    did: list[str] = []

    async def work() -> None:
        try:
            await awaited
        except LookupError:
            did.append("saw it")

    begun = Begun(work())
    awaited.set_exception(LookupError())
    await begun
    assert did == ["saw it"]
