"""What only Postgres does: replicas that share it, row-level security, a server that dies."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio
from agentmesh_conversation_store.codec.events import ProtobufEvents
from agentmesh_conversation_store.domain.conversations import MessageSent, SendMessage
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.model import SECOND, Strategy
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.postgres import PostgresStorage
from agentmesh_conversation_store.storage.postgres.database import migrations
from agentmesh_conversation_store.storage.postgres.driver import tenants_setting
from agentmesh_conversation_store.storage.requests import Request
from meshkit.testkit import raises_rich
from pydantic import SecretStr

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import Recorder, fresh, start_command
from tests.support.databases import PostgresServer

OpenStorage = Callable[..., Any]


@pytest_asyncio.fixture
async def replicas(postgres_url: str) -> AsyncIterator[tuple[PostgresStorage, PostgresStorage]]:
    """Two storages on one database."""
    both = (
        PostgresStorage(postgres_url, ProtobufEvents()),
        PostgresStorage(postgres_url, ProtobufEvents()),
    )
    await asyncio.gather(*(storage.open() for storage in both))
    yield both
    for storage in both:
        await storage.close()


def _message(conversation_id: str, content: str = "hi", tenant: str = "acme") -> SendMessage:
    body = UserMessage(fresh("msg"), "user", content, "alice")
    return SendMessage(tenant, conversation_id, body, Strategy.AFTER_TURN, fresh("run"), "")


async def _versions(url: str) -> list[int]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT version FROM schema_version ORDER BY version")
    await connection.close()
    return [row["version"] for row in rows]


# --- migrations ----------------------------------------------------------------------------------


async def test_replicas_that_start_at_once_migrate_once(postgres_url: str) -> None:
    storages = [PostgresStorage(postgres_url, ProtobufEvents()) for _ in range(6)]
    await asyncio.gather(*(storage.open() for storage in storages))
    assert await _versions(postgres_url) == [version for version, _ in migrations()]
    await storages[0].execute(start_command())
    await asyncio.gather(*(storage.close() for storage in storages))


async def test_a_schema_that_is_not_there_is_said_with_its_remedy(
    postgres_url: str, tmp_path: Path
) -> None:
    careful = PostgresStorage(postgres_url, ProtobufEvents(), migrating=False)
    with pytest.raises(Rejection, match="agentmesh-store migrate") as refused:
        await careful.open()
    assert refused.value.reason is Reason.DATABASE_UNAVAILABLE
    environment = {
        **os.environ,
        "POSTGRES_URL": postgres_url,
        "API_KEY_SECRET": "pepper",
        "AGENTMESH_DATA_DIR": str(tmp_path),
        "AGENTMESH_MIGRATE_AT_START": "false",
    }
    command = [sys.executable, "-m", "agentmesh_conversation_store", "migrate"]
    both = [await asyncio.create_subprocess_exec(*command, env=environment) for _ in range(2)]
    assert [await run.wait() for run in both] == [0, 0]
    assert await _versions(postgres_url) == [version for version, _ in migrations()]
    await careful.open()
    await careful.close()


async def test_a_database_of_a_newer_release_is_refused(postgres_url: str) -> None:
    storage = PostgresStorage(postgres_url, ProtobufEvents())
    await storage.open()
    await storage.close()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("INSERT INTO schema_version VALUES (99999)")
    await connection.close()
    with pytest.raises(Rejection, match="upgrade"):
        await PostgresStorage(postgres_url, ProtobufEvents()).open()


# --- replicas ------------------------------------------------------------------------------------


async def test_replicas_write_one_log_without_holes(
    replicas: tuple[PostgresStorage, PostgresStorage],
) -> None:
    """Groups of both replicas lock the same conversations in the same order: nobody waits for
    ever, and no sequence is given twice."""
    heard = [Recorder(), Recorder()]
    for storage, recorder in zip(replicas, heard, strict=True):
        storage.on_commit(recorder)
    started = [await replicas[0].execute(start_command()) for _ in range(5)]
    ids = [view.conversation.conversation_id for view in started]
    chance = random.Random(7)
    writes = [(chance.choice(replicas), chance.choice(ids), str(number)) for number in range(400)]
    sent = await asyncio.gather(*(s.execute(_message(c, text)) for s, c, text in writes))
    for conversation_id in ids:
        count = sum(1 for _, written, _ in writes if written == conversation_id)
        events = await replicas[1].events("acme", conversation_id, 0, 1000, 10**9)
        assert [event.sequence for event in events] == list(range(1, count + 4))
        told = sorted(
            event.sequence
            for recorder in heard
            for committed in recorder.committed
            if committed.conversation_id == conversation_id
            for event in committed.events
        )
        assert told == [event.sequence for event in events]
    assert len({(w[1], s.sequence) for w, s in zip(writes, sent, strict=True)}) == 400


async def test_a_request_at_two_replicas_at_once_is_carried_out_once(
    replicas: tuple[PostgresStorage, PostgresStorage],
) -> None:
    def encode(sent: MessageSent) -> bytes:
        return f"{sent.sequence}".encode()

    view = await replicas[0].execute(start_command())
    conversation_id = view.conversation.conversation_id
    for round_number in range(20):
        request = Request("acme", f"r{round_number}", b"digest", encode)
        command = _message(conversation_id)
        answers = await asyncio.gather(
            *(storage.execute_once(command, request) for storage in replicas * 3)
        )
        assert answers == [f"{round_number + 4}".encode()] * 6
    reused = Request("acme", "r0", b"another digest", encode)
    with pytest.raises(Rejection) as refused:
        await replicas[1].execute_once(_message(conversation_id), reused)
    assert refused.value.reason is Reason.REQUEST_ID_REUSED


async def test_one_replica_at_a_time_grants_and_none_grants_twice(
    replicas: tuple[PostgresStorage, PostgresStorage],
) -> None:
    for number in range(60):
        await replicas[0].execute(start_command(f"tenant{number % 3}"))
    granted = await asyncio.gather(
        *(replicas[n % 2].grant({f"worker{n}": 10}, 5 * SECOND) for n in range(10))
    )
    runs = [run for group in granted for run in group]
    assert len(runs) == len({run.run_id for run in runs}) == 60
    assert {run.fence for run in runs} == {1}


async def test_a_bad_apple_spoils_nothing(postgres_url: str) -> None:
    """The database refuses one operation of a group; the others succeed."""
    storage = PostgresStorage(postgres_url, ProtobufEvents(), writers=1)
    await storage.open()
    first = await storage.execute(start_command())
    conversation_id = first.conversation.conversation_id
    broken = start_command(priority=2**70)  # more than a column holds
    results = await asyncio.gather(
        storage.execute(start_command()),
        storage.execute(broken),
        storage.execute(_message(conversation_id)),
        storage.execute(start_command()),
        return_exceptions=True,
    )
    assert isinstance(results[1], asyncpg.PostgresError)
    assert not any(isinstance(results[n], BaseException) for n in (0, 2, 3))
    assert (await storage.execute(_message(conversation_id))).sequence == 5
    await storage.close()


async def test_a_group_whose_commit_is_in_doubt_is_not_written_twice(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection dies between the commit and its answer."""
    storage = PostgresStorage(postgres_url, ProtobufEvents(), writers=1)
    await storage.open()
    started = [await storage.execute(start_command()) for _ in range(3)]
    ids = [view.conversation.conversation_id for view in started]
    whole = storage._database.writing

    @asynccontextmanager
    async def cut_off(tenants: Sequence[str]) -> AsyncIterator[Any]:
        async with whole(tenants) as connection:
            yield connection
        lost = asyncpg.ConnectionDoesNotExistError("connection was closed")
        raise Rejection(Reason.DATABASE_UNAVAILABLE, "it does not answer") from lost

    with monkeypatch.context() as patch:
        patch.setattr(storage._database, "writing", cut_off)
        answers = await asyncio.gather(
            *(storage.execute(_message(cid)) for cid in ids), return_exceptions=True
        )
    assert all(isinstance(answer, Rejection) for answer in answers)
    for cid in ids:
        assert len(await storage.events("acme", cid, 0, 100, 10**6)) == 4
    await storage.close()


# --- tenants -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", ["acme", "it's", 'a"b', "back\\slash", "{*}", "*", "a,b", "é"])
async def test_any_name_of_a_tenant_is_quoted(
    replicas: tuple[PostgresStorage, PostgresStorage], postgres_url: str, tenant: str
) -> None:
    view = await replicas[0].execute(start_command("somebody"))
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"SET agentmesh.tenants = {tenants_setting((tenant,))}")
    seen = await connection.fetchval("SELECT agentmesh_tenants()")
    assert seen == [tenant]
    if tenant != "*":
        assert not await connection.fetch("SELECT 1 FROM conversations")
    await connection.close()
    assert view.conversation.tenant == "somebody"


async def test_rows_of_other_tenants_are_not_there(
    replicas: tuple[PostgresStorage, PostgresStorage], postgres_url: str
) -> None:
    storage, _ = replicas
    for tenant in ("acme", "other"):
        await storage.execute(start_command(tenant))
    connection = await asyncpg.connect(postgres_url)
    protected = await connection.fetch(
        "SELECT c.table_name, k.relrowsecurity AND k.relforcerowsecurity AS forced"
        " FROM information_schema.columns c"
        " JOIN pg_class k ON k.oid = c.table_name::regclass"
        " WHERE c.table_schema = 'public' AND c.column_name = 'tenant'"
    )
    assert len(protected) >= 15
    assert {row["table_name"] for row in protected if not row["forced"]} <= UNPROTECTED
    for table in ("conversations", "runs", "events", "inputs"):
        assert await connection.fetch(f"SELECT 1 FROM {table}") == []  # noqa: S608 - our names
        await connection.execute("SET agentmesh.tenants = '{acme}'")
        rows = await connection.fetch(f"SELECT tenant FROM {table}")  # noqa: S608 - our names
        assert {row["tenant"] for row in rows} == {"acme"}
        await connection.execute("RESET agentmesh.tenants")
    await connection.execute("SET agentmesh.tenants = '{acme}'")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("UPDATE runs SET tenant = 'other'")
    assert await connection.execute("DELETE FROM runs WHERE tenant = 'other'") == "DELETE 0"
    await connection.close()


UNPROTECTED = {"message_words"}
"""Tables that queries protect instead; see docs/security.md."""


async def test_a_role_beyond_row_level_security_is_warned_of(
    postgres_server: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = postgres_url.rsplit("/", 1)[1]
    admin = postgres_server.admin_url.rsplit("/", 1)[0] + f"/{database}"
    with caplog.at_level(logging.WARNING):
        for url, warned in ((postgres_url, False), (admin, True)):
            storage = PostgresStorage(url, ProtobufEvents())
            await storage.open()
            await storage.close()
            assert ("row-level security" in caplog.text) is warned
    password = admin.split("@")[0].rsplit(":", 1)[1]
    assert password not in caplog.text


# --- a server that dies --------------------------------------------------------------------------


async def test_no_acknowledged_write_is_lost_when_postgres_is_killed(tmp_path: Path) -> None:
    """SIGKILL of Postgres in a write storm, three times: callers get UNAVAILABLE with a time to
    come back, and every acknowledged message is in the log once."""
    with await asyncio.to_thread(PostgresServer) as server:
        url = await asyncio.to_thread(server.create_database)
        store = await RunningStore.start(
            tmp_path,
            postgres_url=SecretStr(url),
            api_key_secret=SecretStr("pepper"),
            postgres_timeout_seconds=5.0,
        )
        started = [await store.start_conversation() for _ in range(8)]
        storms = [_Storm(store, c.conversation_id) for c in started]
        writing = [asyncio.create_task(storm.blow()) for storm in storms]
        for _ in range(3):
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.sigkill)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.start)
        for storm in storms:
            storm.over = True
        await asyncio.gather(*writing)
        assert sum(storm.failures for storm in storms) > 0
        for storm in storms:
            log = await store.log(storm.conversation_id)
            assert [event.sequence for event in log] == list(range(1, len(log) + 1))
            said = [e.message.content for e in log if e.HasField("message")]
            assert len(said) == len(set(said))
            assert set(storm.acknowledged) <= set(said)
        await store.stop()


class _Storm:
    """One caller that sends as fast as it can; it repeats what failed under the same request id,
    as clients do."""

    def __init__(self, store: RunningStore, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self.acknowledged: list[str] = []
        self.failures = 0
        self.over = False
        self._store = store

    async def blow(self) -> None:
        number = 0
        while not self.over or self.failures == 0:
            number += 1
            await self._send(f"{self.conversation_id} {number}")

    async def _send(self, text: str) -> None:
        async with asyncio.timeout(60):
            while True:
                try:
                    await self._store.send(self.conversation_id, text, request_id=text)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    self.failures += 1
                    await asyncio.sleep(0.05)
                else:
                    self.acknowledged.append(text)
                    return


async def test_a_database_that_is_away_is_unavailable_with_a_time_to_come_back(
    tmp_path: Path,
) -> None:
    with await asyncio.to_thread(PostgresServer) as server:
        url = await asyncio.to_thread(server.create_database)
        store = await RunningStore.start(
            tmp_path,
            postgres_url=SecretStr(url),
            api_key_secret=SecretStr("pepper"),
            postgres_timeout_seconds=2.0,
        )
        conversation = await store.start_conversation()
        await asyncio.to_thread(server.stop)
        for call in (
            lambda: store.send(conversation.conversation_id, "lost?"),
            lambda: store.log(conversation.conversation_id),
        ):
            with raises_rich(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE") as away:
                await call()
            assert away.error.retry_after is not None
            assert url not in str(away.error)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(20):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    await store.send(conversation.conversation_id, "there")
                    break
        await store.stop()
