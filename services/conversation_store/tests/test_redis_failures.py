"""Connections to Redis that were lost a moment before something is sent over them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from agentmesh_conversation_store.fanout.redis import RedisFanout
from agentmesh_conversation_store.fanout.redis_failures import REDIS_FAILURES, lost_connections
from redis.asyncio.connection import AbstractConnection

from services.conversation_store.tests.support import fresh
from services.conversation_store.tests.test_fanout import SEAL, Ear, grown

CLOSED = "unable to perform operation on <TCPTransport closed=True reading=False 0x1>; {}"
HANDLER = CLOSED.format("the handler is closed")


def test_an_error_without_a_type_is_a_lost_connection() -> None:
    with pytest.raises(REDIS_FAILURES), lost_connections():
        raise RuntimeError(HANDLER)


def test_other_defects_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="another"), lost_connections():
        raise RuntimeError("another")


Lose = Callable[[str], None]


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """The next such command finds its connection closed, as uvloop says it."""
    send = AbstractConnection.send_packed_command
    doomed: list[bytes] = []

    async def sending(self: AbstractConnection, command: Any, **options: Any) -> None:
        data = command if isinstance(command, bytes) else b"".join(command)
        if doomed and doomed[0] in data:
            doomed.pop()
            await self.disconnect()
            raise RuntimeError(HANDLER)
        await send(self, command, **options)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", sending)
    return lambda command: doomed.append(command.encode())


async def test_nothing_that_was_to_be_said_is_lost_and_nothing_is_left_unheard(
    redis_url: str, lose: Lose, caplog: pytest.LogCaptureFixture
) -> None:
    prefix, cid, other = fresh("mesh"), fresh("conv"), fresh("conv")
    speaker, hearer = (RedisFanout(redis_url, prefix, SEAL) for _ in range(2))
    ear = Ear()
    ear.listen_to(hearer)
    for fanout in (speaker, hearer):
        await fanout.start()
    hearer.follow("acme", cid)
    await ear.connected(cid)
    await hearer._outbox.emptied()  # it asks, too; now only one of them has something to say
    lose("PUBLISH")
    speaker.publish(grown(cid, 1))
    await ear.until(lambda ear: ear.told == [grown(cid, 1)])
    lose("SUBSCRIBE")
    hearer.follow("acme", other)
    await ear.connected(other)
    speaker.publish(grown(other, 2))
    await ear.until(lambda ear: ear.told == [grown(cid, 1), grown(other, 2)])
    for fanout in (speaker, hearer):
        await fanout.stop()
    said = [(r.levelno, r.getMessage().split(",")[0]) for r in caplog.records if "redis" in r.name]
    assert said == [(logging.WARNING, "Redis is out of reach")] * 2
