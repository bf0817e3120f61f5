"""Replicas that talk over a Redis which comes and goes."""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from agentmesh_conversation_store.fanout import wire
from agentmesh_conversation_store.fanout.interface import (
    DeltasMade,
    NoticesMissed,
    TextWanted,
)
from agentmesh_conversation_store.fanout.redis import RedisFanout
from agentmesh_conversation_store.fanout.seal import Seal
from agentmesh_conversation_store.settings import StoreSettings
from pydantic import ValidationError

from services.conversation_store.tests.support import PATIENCE, fresh
from services.conversation_store.tests.test_fanout import SEAL, Ear, delta, grown
from tests.support.databases import ProgramMissingError, RedisServer


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that may be killed."""
    try:
        server = RedisServer()
    except ProgramMissingError as error:
        pytest.skip(str(error))
    yield server
    server.close()


class _Replica:
    def __init__(self, url: str, prefix: str) -> None:
        self.fanout = RedisFanout(url, prefix, SEAL)
        self.ear = Ear()
        self.ear.listen_to(self.fanout)


Make = Callable[..., _Replica]


@pytest_asyncio.fixture
async def replica() -> AsyncIterator[Make]:
    """Makes replicas and stops them."""
    made: list[_Replica] = []

    def make(url: str, prefix: str = "mesh") -> _Replica:
        made.append(_Replica(url, prefix))
        return made[-1]

    yield make
    for one in made:
        await one.fanout.stop()


async def test_only_what_is_followed_arrives(redis_url: str, replica: Make) -> None:
    prefix, cid = fresh("mesh"), fresh("conv")
    one, two = replica(redis_url, prefix), replica(redis_url, prefix)
    await one.fanout.start()
    await two.fanout.start()
    two.fanout.follow("acme", cid)
    await two.ear.connected(cid)
    one.fanout.publish(grown("conv_other", 1))
    one.fanout.publish(DeltasMade("other", cid, [delta()]))
    one.fanout.publish(grown(cid, 2))
    await two.ear.until(lambda ear: bool(ear.told))
    two.fanout.unfollow("acme", cid)
    # On its way already when it was no longer wanted.
    channel = two.fanout._conversation_channel("acme", cid)
    late = SEAL.sealed(channel, wire.encoded("another", [grown(cid, 3)]))
    two.fanout._receive(channel, late)
    one.fanout.publish(grown(cid, 3))
    two.fanout.follow("acme", "conv_last")
    await two.ear.connected("conv_last")
    one.fanout.publish(grown("conv_last", 4))
    await two.ear.until(lambda ear: len(ear.told) > 1)
    assert two.ear.told == [grown(cid, 2), grown("conv_last", 4)]


async def test_meshes_with_other_prefixes_hear_nothing_of_each_other(
    redis_url: str, replica: Make
) -> None:
    cid, ours = fresh("conv"), fresh("mesh")
    one, two, other = (replica(redis_url, prefix) for prefix in (ours, ours, fresh("mesh")))
    for each in (one, other, two):
        await each.fanout.start()
        each.fanout.follow("acme", cid)
        await each.ear.connected(cid)
    other.fanout.publish(grown(cid, 9))
    one.fanout.publish(grown(cid, 1))
    for each, sequence in ((two, 1), (other, 9)):
        await each.ear.until(lambda ear: bool(ear.told))
        assert each.ear.told == [grown(cid, sequence)]


async def test_who_follows_asks_and_is_answered_alone(redis_url: str, replica: Make) -> None:
    prefix, cid = fresh("mesh"), fresh("conv")
    holder, asker, third = (replica(redis_url, prefix) for _ in range(3))
    text = DeltasMade("acme", cid, [delta(0), delta(1)])

    def answer(question: TextWanted) -> None:
        holder.fanout.tell(question.replica, text)

    for each in (holder, third):
        await each.fanout.start()
        each.fanout.follow("acme", cid)
        await each.ear.connected(cid)
    await holder.ear.until(lambda ear: any(isinstance(n, TextWanted) for n in ear.heard))
    holder.fanout.listen(TextWanted, answer)
    await asker.fanout.start()
    asker.fanout.follow("acme", cid)
    await asker.ear.until(lambda ear: text in ear.heard)
    asker.fanout.publish(grown(cid, 1))
    for each in (third, holder):
        await each.ear.until(lambda ear: bool(ear.told))
        assert each.ear.told == [grown(cid, 1)]
    # Nobody is asked by himself.
    assert not any(isinstance(notice, TextWanted) for notice in asker.ear.heard)


async def test_redis_down_at_start_then_up_then_killed_then_up(
    own_redis: RedisServer, replica: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cid = fresh("conv")
    one, two = replica(own_redis.url), replica(own_redis.url)
    for each in (one, two):
        await each.fanout.start()
        each.fanout.follow("acme", cid)
    one.fanout.publish(grown(cid, 1))
    assert one.ear.told == [grown(cid, 1)]
    while "out of reach" not in caplog.text:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(own_redis.start)
    await two.ear.connected(cid)
    await one.ear.connected(cid)
    one.fanout.publish(grown(cid, 2))
    await two.ear.until(lambda ear: grown(cid, 2) in ear.told)
    for sequence in (3, 4):
        await asyncio.to_thread(own_redis.sigkill)
        for each in (one, two):
            each.ear.heard.clear()
        while one.fanout.connected or two.fanout.connected:
            one.fanout.publish(DeltasMade("acme", cid, [delta()]))
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_redis.start)
        await two.ear.connected(cid)
        await one.ear.connected(cid)
        await asyncio.to_thread(own_redis.flush)
        one.fanout.publish(grown(cid, sequence))
        await two.ear.until(lambda ear, n=sequence: grown(cid, n) in ear.told)  # type: ignore[misc]  # bound now
    lost = [r for r in caplog.records if "out of reach" in r.getMessage()]
    assert len(lost) == 6  # each of two replicas, once for each of three outages


async def test_what_was_committed_while_redis_was_away_is_said_afterwards(
    own_redis: RedisServer, replica: Make
) -> None:
    cid = fresh("conv")
    one, two = replica(own_redis.url), replica(own_redis.url)
    await asyncio.to_thread(own_redis.start)
    await two.fanout.start()
    two.fanout.follow("acme", cid)
    await two.ear.connected(cid)
    one.fanout.publish(grown(cid, 1))
    await one.fanout.start()
    await two.ear.until(lambda ear: grown(cid, 1) in ear.told)


async def test_what_could_not_be_said_is_said_later(redis_url: str, replica: Make) -> None:
    prefix, cid = fresh("mesh"), fresh("conv")
    refused: list[StreamWriter] = []

    def refuse(_: StreamReader, writer: StreamWriter) -> None:
        refused.append(writer)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    one, two = replica(f"redis://127.0.0.1:{port}/0", prefix), replica(redis_url, prefix)
    await two.fanout.start()
    two.fanout.follow("acme", cid)
    await two.ear.connected(cid)
    one.fanout.publish(grown(cid, 1))
    await one.fanout.start()
    async with asyncio.timeout(PATIENCE):
        while len(refused) < 6:
            await asyncio.sleep(0.01)
    server.close()
    await server.wait_closed()
    port_of_redis = urlsplit(redis_url).port
    assert port_of_redis is not None
    passing = await asyncio.start_server(_pass_to(port_of_redis), "127.0.0.1", port)
    await two.ear.until(lambda ear: grown(cid, 1) in ear.told)
    passing.close()


def _pass_to(port: int) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
    """Passes what a client says on to Redis, and the answers back."""

    async def copy(reader: StreamReader, writer: StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        answers, questions = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            await asyncio.gather(copy(reader, questions), copy(answers, writer))

    return serve


async def test_the_last_words_are_said_before_the_end(redis_url: str, replica: Make) -> None:
    prefix, cid = fresh("mesh"), fresh("conv")
    one, two = replica(redis_url, prefix), replica(redis_url, prefix)
    for each in (one, two):
        await each.fanout.start()
        each.fanout.follow("acme", cid)
        await each.ear.connected(cid)
    for sequence in range(1, 2001):
        one.fanout.publish(grown(cid, sequence))
    await one.fanout.stop()
    await two.ear.until(lambda ear: len(ear.told) == 2000)


FORGED = wire.encoded("another", [grown("conv_forged", 7)])


@pytest.mark.parametrize(
    "message",
    [
        lambda _: b"",
        lambda _: b"\xff\xff nonsense",
        lambda _: FORGED,
        lambda channel: Seal(lambda: [b"another key"]).sealed(channel, FORGED),
        lambda channel: SEAL.sealed(f"{channel[:-1]}x", FORGED),
    ],
    ids=["empty", "nonsense", "no seal", "sealed by others", "for another channel"],
)
async def test_what_no_replica_of_the_mesh_said_there_is_passed_over(
    redis_url: str,
    replica: Make,
    caplog: pytest.LogCaptureFixture,
    message: Callable[[str], bytes],
) -> None:
    from redis.asyncio import Redis

    one, two = replica(redis_url, prefix := fresh("mesh")), replica(redis_url, prefix)
    await one.fanout.start()
    one.fanout.follow("acme", "conv_forged")
    await one.ear.connected("conv_forged")
    channel = one.fanout._conversation_channel("acme", "conv_forged")
    async with Redis.from_url(redis_url) as client:
        for _ in range(3):
            assert await client.publish(channel, message(channel)) == 1
    await two.fanout.start()
    two.fanout.publish(grown("conv_forged", 1))
    await one.ear.until(lambda ear: bool(ear.told))
    assert one.ear.told == [grown("conv_forged", 1)]
    said = [r.getMessage() for r in caplog.records if "no notice of this mesh" in r.getMessage()]
    assert len(said) == 1, "however many there are"


async def test_many_conversations_are_followed_and_found_again(
    own_redis: RedisServer, replica: Make
) -> None:
    await asyncio.to_thread(own_redis.start)
    one, two = replica(own_redis.url), replica(own_redis.url)
    names = [f"conv_{number}" for number in range(2000)]
    for name in names:
        two.fanout.follow("acme", name)
    await one.fanout.start()
    await two.fanout.start()
    followed = {("acme", name) for name in names}

    def all_arrive(ear: Ear) -> bool:
        found = {
            key
            for notice in ear.heard
            if isinstance(notice, NoticesMissed) and notice.conversations
            for key in notice.conversations
        }
        return found == followed

    await two.ear.until(all_arrive)
    two.ear.heard.clear()
    await asyncio.to_thread(own_redis.restart)
    await two.ear.until(all_arrive)
    for name in names:
        one.fanout.publish(grown(name, 1))
    await two.ear.until(lambda ear: len(ear.told) == len(names))


def test_a_url_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("redis://user:pa/55word@host:6379/0", "http://h", "redis://:pa55word@h?speed=1"):
        monkeypatch.setenv("REDIS_URL", url)
        with pytest.raises(ValidationError) as refused:
            StoreSettings()
        message = str(refused.value.errors()[0]["msg"])
        assert "REDIS_URL must be" in message
        assert "55word" not in str(refused.value)
    for url in ("rediss://:pa55word@host/1?ssl_ca_certs=/ca.pem", "unix:///run/redis.sock?db=1"):
        monkeypatch.setenv("REDIS_URL", url)
        settings = StoreSettings()
        assert settings.redis_url is not None
        assert "55word" not in repr(settings)


async def test_a_wrong_password_is_logged_without_it(
    redis_url: str, replica: Make, caplog: pytest.LogCaptureFixture
) -> None:
    host = urlsplit(redis_url).netloc
    one = replica(f"redis://somebody:pa55word@{host}/0")
    await one.fanout.start()
    while "out of reach" not in caplog.text:
        await asyncio.sleep(0.01)
    assert "55word" not in caplog.text
