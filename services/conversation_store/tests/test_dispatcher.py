"""How the queue's loops begin and end."""

from __future__ import annotations

import asyncio

import pytest
from agentmesh_conversation_store.domain.attempts import Retries
from agentmesh_conversation_store.domain.model import SECOND
from agentmesh_conversation_store.fanout.in_process import InProcessFanout
from agentmesh_conversation_store.fanout.interface import NoticesMissed
from agentmesh_conversation_store.leasing.dispatcher import Dispatcher, LeaseTimes
from agentmesh_conversation_store.storage.interface import Storage


@pytest.mark.parametrize("steps", range(6))
async def test_news_that_come_with_the_stop_do_not_prevent_it(storage: Storage, steps: int) -> None:
    fanout = InProcessFanout()
    times = LeaseTimes(5 * SECOND, SECOND, SECOND, poll=30.0, sweep=30.0)
    dispatcher = Dispatcher(storage, fanout, lambda _: "", times, Retries(3, 3, SECOND))
    await fanout.start()
    await dispatcher.start()
    await asyncio.sleep(0.02)
    fanout.publish(NoticesMissed())
    for _ in range(steps):
        await asyncio.sleep(0)
    stopping = asyncio.create_task(dispatcher.stop())
    ended, _ = await asyncio.wait({stopping}, timeout=5)
    stopping.cancel()
    assert ended
