"""No tenant can tell whether another one is there, whatever the storage is asked (G10).

Each question is asked by a tenant that is alone in the database, and again beside another one that
has rows under the same keys: the answers must be the same, and the other's rows as before. On
Postgres row-level security is off for this, so that the queries have to hold by themselves, and
every row of the other tenant is locked, so that nothing may even wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from agentmesh_conversation_store.storage.interface import (
    Storage,
)
from agentmesh_conversation_store.storage.postgres.driver import tenants_setting

from services.conversation_store.tests.neighbour_questions import OF_ALL_TENANTS, QUESTIONS
from services.conversation_store.tests.neighbours import NAMES, Town
from services.conversation_store.tests.support import PATIENCE, ManualClock


def test_every_method_of_the_storage_is_asked() -> None:
    methods = {name for name in dir(Storage) if not name.startswith("_")}
    assert methods == QUESTIONS.keys() | OF_ALL_TENANTS.keys()
    assert not QUESTIONS.keys() & OF_ALL_TENANTS.keys()


@pytest.fixture
def town(storage: Storage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Town:
    """An empty one, where only the queries keep tenants apart."""
    if type(storage).__name__ == "PostgresStorage":
        database = "agentmesh_conversation_store.storage.postgres.database"
        every = tenants_setting(["*"])
        monkeypatch.setattr(f"{database}.tenants_setting", lambda _: every)
    return Town(storage, clock)


@asynccontextmanager
async def _locked(url: str | None, tenant: str, tables: Iterable[str]) -> AsyncIterator[None]:
    """Meanwhile nobody else can lock a row of the tenant, where rows are locked at all."""
    if url is None:
        yield
        return
    connection = await asyncpg.connect(url, server_settings={"agentmesh.tenants": '{"*"}'})
    try:
        async with connection.transaction():
            for table in tables:
                await connection.fetch(
                    f"SELECT 1 FROM {table} WHERE tenant = $1 FOR UPDATE",  # noqa: S608 - our names
                    tenant,
                )
            yield
    finally:
        await connection.close()


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("asking", NAMES)
async def test_nobody_can_tell_whether_another_tenant_is_there(
    town: Town, request: pytest.FixtureRequest, asking: str, order: str
) -> None:
    (other,) = {*NAMES} - {asking}
    url = request.getfixturevalue("postgres_url") if "postgres" in request.node.name else None
    await town.of(asking)
    alone = {name: await ask(town.storage, asking) for name, ask in QUESTIONS.items()}
    await town.of(*((asking, other) if order == "before" else (other, asking)))
    before = await town.rows(other)
    async with _locked(url, other, before), asyncio.timeout(PATIENCE):
        beside = {name: await ask(town.storage, asking) for name, ask in QUESTIONS.items()}
    for name, answer in alone.items():
        assert beside[name] == answer, name
    assert await town.rows(other) == before
