"""A chat whose caller takes nothing: what it holds is bounded, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentmesh_client import Event
from agentmesh_client.inbox import MOST_BYTES, MOST_ITEMS, Inbox

from .conftest import events
from .test_real_gateway import running_mesh

PATIENCE = 120.0
LARGE = "x" * (250 << 10)  # a little more, and the log would hold a reference in its place
MANY = 60
"""Messages that are more than the client, the connection and the gateway hold together."""
FEW = MOST_BYTES // len(LARGE) + 8
"""As many as a chat may hold: up to the bound, and one response more."""


async def test_what_nobody_takes_waits_at_the_server(tmp_path: Path) -> None:
    slow = {"AGENTMESH_SLOW_READER_SECONDS": "0.5"}
    async with running_mesh(tmp_path, slow) as mesh, mesh.client as client:
        started = await client.start("x", agents=["writer"])
        await asyncio.gather(*(client.send(started.id, LARGE) for _ in range(MANY)))
        async with client.chat(started.id, until="run_end") as chat, asyncio.timeout(PATIENCE):
            while "SLOW_READER" not in mesh.gateway.log():
                await asyncio.sleep(0.05)
            held = chat.waiting
            assert held <= FEW
            # Answers come whether items are taken or not, and over a gateway that dies.
            first = await chat.send("one")
            await mesh.gateway.sigkill()
            said = asyncio.create_task(chat.send("two"))
            await mesh.gateway.restart()
            assert await said == first + 1
            assert await chat.cancel() == "cancelled"
            await chat.finish()
            assert chat.waiting == held
            seen = [item async for item in chat if isinstance(item, Event)]
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    contents = [event.raw.message.content for event in seen if event.kind == "message"]
    assert contents == ["x", *[LARGE] * MANY, "one", "two"]
    assert seen[-1].kind == "run_ended"


def _event(sequence: int) -> Event:
    return Event.of(events(sequence).events.events[0])


async def test_an_inbox_stays_full_until_half_of_it_is_taken() -> None:
    inbox = Inbox()
    for sequence in range(1, MOST_ITEMS + 1):
        assert not inbox.full
        inbox.put(_event(sequence))
    items = inbox.take()
    for _ in range(MOST_ITEMS // 2 - 1):
        await anext(items)
    assert inbox.full
    waiting = asyncio.create_task(inbox.wait_until(lambda: not inbox.full))
    await anext(items)
    async with asyncio.timeout(PATIENCE):
        await waiting
    assert len(inbox) == MOST_ITEMS // 2
