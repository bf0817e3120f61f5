"""SQLite keeps values of any type in any column. Whoever puts one into the audit log is found, and
stops neither the verification nor the sealing of others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from agentmesh_conversation_store import audit_commands
from agentmesh_conversation_store.auditing import verify
from agentmesh_conversation_store.domain.ledger import DAY
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.sql.tables import AUDIT, CUTS, SEALS, Table

from services.conversation_store.tests.audit_log import (
    KEYS,
    Change,
    append,
    recorded,
    sealer,
    three_batches,
    verdict,
)
from services.conversation_store.tests.support import ManualClock

pytestmark = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)

VALUES = ("x'00ff'", "'text'", "-0.5", "1e300", "CAST('acme' AS BLOB)", "-9223372036854775808")


def _changes(table: Table[Any], where: str) -> Iterator[tuple[str, str]]:
    """What is done to each column of a table's row of one tenant, with a name for that."""
    for column in table.fields:
        for number, value in enumerate(VALUES):
            name = f"{column}-{number}"
            # Where a copy has the place already, it is another row all the same.
            change = f"UPDATE OR REPLACE {table.name} SET {column} = {value} WHERE {where}"  # noqa: S608  our own words
            yield name, f"{change} AND tenant = '{name}'"


@pytest.mark.parametrize(
    ("table", "where"),
    [
        (AUDIT, "sequence = 5"),
        (AUDIT, "sequence = 0"),
        (SEALS, "number = 2"),
        (SEALS, "number = 4"),
        (CUTS, "through_sequence = 3"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
async def test_a_value_of_another_type_is_found_wherever_it_stands(
    storage: Storage,
    clock: ManualClock,
    tamper: Change,
    caplog: pytest.LogCaptureFixture,
    table: Table[Any],
    where: str,
) -> None:
    changes = dict(_changes(table, where))
    names = [*changes, "untouched"]
    await three_batches(storage, *names)
    clock.now += 10 * DAY
    for name in names:
        await storage.remove_audit(name, KEYS, clock.now, 1)
    await append(storage, *(recorded(name, clock.now) for name in names))
    at_work = sealer(storage, keep_days=1)
    if not _is_waiting(where):
        await at_work.seal_all()
    await tamper(";".join(changes.values()))
    for name in ("before", "after"):
        lines = [audit_commands._verdict(one) for one in await verify(storage, KEYS, {})]
        broken = {line.split(":")[0] for line in lines if "BROKEN" in line}
        assert changes.keys() - broken == _not_seen(table, where, name), name
        assert "untouched" not in broken
        assert table is CUTS or broken >= {"b'\\x00\\xff'", "text", "b'acme'"}
        await append(storage, *(recorded(one, clock.now, name) for one in names))
        await at_work.seal_all()
        await at_work.remove_old()
        assert "stay unsealed" not in caplog.text
    found = {one.tenant: one for one in await verify(storage, KEYS, {})}
    assert found["untouched"].unsealed == 0


def _is_waiting(where: str) -> bool:
    return where == "sequence = 0"


def _not_seen(table: Table[Any], where: str, sealing: str) -> set[str]:
    """A record that waits leaves no gap where it is moved away from, as documented; the mark
    of one that is sealed is of no use any more."""
    if table is not AUDIT:
        return set()
    column = "tenant" if _is_waiting(where) else "mac"
    unseen = {f"{column}-{number}" for number in range(len(VALUES))}
    if _is_waiting(where) and sealing == "after":
        # Those of which nothing but the place was changed, to a later one: they wait once more.
        unseen |= {f"sequence-{number}" for number in (0, 1, 3, 4)}
    return unseen


@pytest.mark.parametrize(
    ("table", "where", "column"),
    [(AUDIT, "sequence = 0", "peer"), (AUDIT, "sequence = 5", "code"), (SEALS, "true", "key_id")],
    ids=lambda value: getattr(value, "name", value),
)
async def test_text_that_is_none_is_found_and_is_no_matter_of_other_tenants(
    storage: Storage,
    clock: ManualClock,
    tamper: Change,
    caplog: pytest.LogCaptureFixture,
    table: Table[Any],
    where: str,
    column: str,
) -> None:
    await three_batches(storage, "acme", "other")
    await append(storage, recorded("acme", clock.now), recorded("other", clock.now))
    change = f"UPDATE {table.name} SET {column} = CAST(x'ff' AS TEXT)"  # noqa: S608  our own words
    await tamper(f"{change} WHERE {where} AND tenant = 'acme'")
    clock.now += 10 * DAY
    at_work = sealer(storage, keep_days=1)
    await at_work.seal_all()
    await at_work.remove_old()
    assert "stay unsealed" not in caplog.text
    (broken, other) = await verify(storage, KEYS, {})
    assert (broken.tenant, "cannot be read" in str(broken.problem)) == ("acme", True)
    assert (other.problem, other.removed, other.unsealed) == (None, 9, 0)


async def test_bytes_that_look_like_a_text_are_not_that_text(
    storage: Storage, tamper: Change
) -> None:
    await append(storage, replace(recorded("acme", 1), principal="b'al'"))
    await sealer(storage).seal_all()
    assert (await verdict(storage)).problem is None
    await tamper("UPDATE audit_records SET principal = CAST('al' AS BLOB)")
    assert "batch 1 does not match its seal" in str((await verdict(storage)).problem)
