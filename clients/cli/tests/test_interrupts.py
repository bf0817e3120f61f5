"""Signals that are awaited: none is lost."""

import asyncio
import signal

import pytest
from agentmesh_cli.errors import EXIT_INTERRUPTED, CliError
from agentmesh_cli.interrupts import Interrupts

PATIENCE = 30


async def test_a_signal_that_comes_as_the_guarded_work_ends_is_still_to_be_had() -> None:
    with Interrupts() as interrupts:

        async def work() -> str:
            interrupts._received(signal.SIGINT)  # a real one would seldom come at just this moment
            return "done"

        assert await interrupts.guard(work()) == "done"
        async with asyncio.timeout(PATIENCE):
            assert await interrupts.wait() is signal.SIGINT


async def test_a_signal_ends_guarded_work() -> None:
    with Interrupts() as interrupts:
        guarded = asyncio.create_task(interrupts.guard(asyncio.sleep(PATIENCE)))
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(CliError) as caught:
            await guarded
    assert caught.value.exit_status == EXIT_INTERRUPTED
