"""What somebody can do to the audit log who writes to the database and has no key: nothing that is
not found, and nothing that is taken for the store's."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from agentmesh_conversation_store import auditing
from agentmesh_conversation_store.auditing import verify
from agentmesh_conversation_store.domain.audit_keys import AuditKeys, SealingKey
from agentmesh_conversation_store.domain.ledger import DAY, AuditRecord
from agentmesh_conversation_store.storage.interface import Storage

from services.conversation_store.tests.audit_log import (
    KEYS,
    MANY,
    OTHER_KEYS,
    Change,
    append,
    recorded,
    sealer,
    three_batches,
    verdict,
)
from services.conversation_store.tests.support import ManualClock

INSERT = (
    "INSERT INTO audit_records (tenant, record_id, time, principal, method, resource, code, peer,"
    " trace_id, request_id, sequence, mac) VALUES "
)


def _row(record: AuditRecord, mac: bytes, sequence: int = 0) -> str:
    hexed = f"'\\x{mac.hex()}'"
    texts = (record.principal, record.method, record.resource, record.code, record.peer, "", "")
    quoted = ", ".join(f"'{text}'" for text in texts)
    return (
        f"{INSERT} ('{record.tenant}', '{record.record_id}', {record.time}, {quoted}, {sequence},"
        f" {hexed})"
    )


@pytest.fixture
def insert(request: pytest.FixtureRequest, run_sql: Change) -> Change:
    """Puts a row into the database, bytes as each of them writes them."""
    postgres = "postgres" in request.node.callspec.id
    return run_sql if postgres else lambda sql: run_sql(sql.replace("'\\x", "x'"))


# --- records that the store did not write ----------------------------------------------------


async def test_what_somebody_inserts_is_put_aside_and_reported_and_the_others_are_sealed(
    storage: Storage, insert: Change, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await append(storage, recorded("acme", 1))
    forged = recorded("acme", 2, "forged")
    stranger = AuditKeys([SealingKey(b"x" * 32)])
    for number, mac in enumerate((b"", bytes(24), stranger.mac(forged))):
        await insert(_row(replace(forged, record_id=f"forged-{number}"), mac))
    assert "3 records were not written by the store" in str((await verdict(storage)).problem)
    await sealer(storage).seal_all()
    assert "put aside: forged-0" in caplog.text
    found = await verdict(storage)
    assert (found.records, found.unsealed) == (1, 0)
    assert "3 records were not written by the store" in str(found.problem)
    assert [one.method for one in await storage.list_audit("acme", MANY)] == ["m"]
    # The chain goes on.
    await append(storage, recorded("acme", 3))
    await sealer(storage).seal_all()
    assert (await verdict(storage)).records == 2


async def test_what_is_changed_before_it_is_sealed_is_found(
    storage: Storage, tamper: Change
) -> None:
    changes = ("principal = 'bob'", "time = time + 1", "code = 'O', peer = 'K1.2.3.4'")
    for number, change in enumerate(changes):
        await append(storage, recorded(f"acme-{number}", 1))
        await tamper(f"UPDATE audit_records SET {change} WHERE tenant = 'acme-{number}'")  # noqa: S608  our own words
    await append(storage, recorded("other", 1))
    await tamper("UPDATE audit_records SET tenant = 'acme-3' WHERE tenant = 'other'")
    await sealer(storage).seal_all()
    found = await verify(storage, KEYS, {})
    assert [one.tenant for one in found] == [f"acme-{number}" for number in range(4)]
    assert {one.records for one in found} == {0}
    assert all("not written by the store like this" in str(one.problem) for one in found)


async def test_a_record_that_removal_took_does_not_come_back(
    storage: Storage, clock: ManualClock, insert: Change
) -> None:
    old = recorded("acme", clock.now)
    await append(storage, old)
    clock.now += 1
    await sealer(storage).seal_all()
    clock.now += 10 * DAY
    assert await sealer(storage, keep_days=5).remove_old() == 1
    await insert(_row(old, KEYS.mac(old)))
    await append(storage, recorded("acme", clock.now))
    await sealer(storage).seal_all()
    found = await verdict(storage)
    assert found.records == 1
    assert f"like this: {old.record_id}" in str(found.problem)


async def test_a_place_that_somebody_took_does_not_stop_the_sealing(
    storage: Storage, insert: Change
) -> None:
    await append(storage, recorded("acme", 1))
    await sealer(storage).seal_all()
    forged = recorded("acme", 2, "forged")
    await insert(_row(forged, KEYS.mac(forged), sequence=2))
    await append(storage, recorded("acme", 3), recorded("other", 3))
    await sealer(storage).seal_all()
    found = await verdict(storage)
    assert (found.records, found.unsealed) == (2, 1)  # the one with a mark is the store's
    assert (await verdict(storage, "other")).records == 1


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
async def test_values_of_other_types_are_no_records(storage: Storage, tamper: Change) -> None:
    for number, change in enumerate(("principal = x'00'", "time = 'now'", "mac = 7")):
        await append(storage, recorded(f"acme-{number}", 1), recorded(f"acme-{number}", 2))
        await tamper(
            f"UPDATE audit_records SET {change} WHERE record_id = 'acme-{number}-1-m'"  # noqa: S608  our own words
        )
    await sealer(storage).seal_all()
    for one in await verify(storage, KEYS, {}):
        assert (one.records, "not written by the store" in str(one.problem)) == (1, True)


async def test_what_fails_for_one_tenant_is_no_matter_of_others(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(storage, recorded("acme", 1), recorded("other", 1))
    seal = type(storage).seal_audit

    async def fails(tenant: str, *arguments: Any) -> object:
        if tenant == "acme":
            raise ValueError("what stands there makes no sense")
        return await seal(storage, tenant, *arguments)

    monkeypatch.setattr(storage, "seal_audit", fails)
    await sealer(storage).seal_all()
    assert (await verdict(storage, "other")).records == 1


async def test_records_under_newer_keys_wait_for_a_replica_that_has_them(
    storage: Storage, insert: Change
) -> None:
    newer = recorded("acme", 1)
    await insert(_row(newer, OTHER_KEYS.mac(newer)))
    await sealer(storage).seal_all()
    assert "like this" in str((await verdict(storage)).problem)
    (known,) = await verify(storage, OTHER_KEYS, {})
    assert (known.problem, known.unsealed) == (None, 1)
    assert await storage.reconsider_audit(KEYS, 10) == 0
    assert await storage.reconsider_audit(OTHER_KEYS, 10) == 1
    await sealer(storage, OTHER_KEYS).seal_all()
    (known,) = await verify(storage, OTHER_KEYS, {})
    assert (known.problem, known.unsealed, known.records) == (None, 0, 1)


# --- chains that are not what they were ------------------------------------------------------


async def test_nothing_is_added_to_a_chain_that_lost_what_the_sealer_remembers(
    storage: Storage, tamper: Change, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    at_work, replica = sealer(storage), sealer(storage)
    for number in (1, 2):
        await append(storage, recorded("acme", number))
        await at_work.seal_all()
    await tamper(
        "DELETE FROM audit_seals WHERE number = 2; DELETE FROM audit_records WHERE sequence = 2"
    )
    await append(storage, recorded("acme", 3), recorded("other", 3))
    for _ in range(3):
        await at_work.seal_all()
    assert caplog.text.count("it ends at batch 1, and had 2 already") == 1
    assert (await verdict(storage)).unsealed == 1
    assert (await verdict(storage, "other")).records == 1
    # Nor if somebody who did not know went on.
    await replica.seal_all()
    await append(storage, recorded("acme", 4))
    await at_work.seal_all()
    assert "batch 2 is not the one that was sealed" in caplog.text
    assert (await verdict(storage)).unsealed == 1


async def test_nothing_is_added_to_a_seal_that_no_key_made(
    storage: Storage, tamper: Change, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await append(storage, recorded("acme", 1))
    await sealer(storage).seal_all()
    await tamper(
        "INSERT INTO audit_seals SELECT tenant, 2, 2, 9, sealed_at, hash, hash, signature, key_id,"
        " content FROM audit_seals"
    )
    await append(storage, recorded("acme", 2))
    await sealer(storage).seal_all()
    assert "batch 2 is not as it was sealed" in caplog.text
    found = await verdict(storage)
    assert (found.batches, "batch 2 does not match its seal" in str(found.problem)) == (1, True)


# --- retention -------------------------------------------------------------------------------


async def _long_ago(storage: Storage, clock: ManualClock, *tenants: str) -> None:
    await three_batches(storage, *tenants)
    clock.now += 10 * DAY


_BEFORE_REMOVAL = (
    ("UPDATE audit_seals SET sealed_at = 1 WHERE number = 4", 3, "batch 4 does not match"),
    ("UPDATE audit_records SET principal = 'bob' WHERE sequence = 5", 9, "batch 2 does not"),
    ("DELETE FROM audit_records WHERE sequence = 2", 11, "record 2 of batch 1 is missing"),
    ("DELETE FROM audit_seals WHERE number = 2", 9, "batch 2 is missing"),
    (
        "INSERT INTO audit_cuts SELECT tenant, 9, 1, signature FROM audit_seals WHERE number = 3",
        12,
        "in the name of retention",
    ),
)
"""What is done to a chain of twelve records, how many of them are kept, and what is said of it."""


async def test_retention_removes_what_was_sealed_long_ago_and_is_as_it_was_sealed(
    storage: Storage, clock: ManualClock, tamper: Change, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    tenants = [f"acme-{number}" for number in range(len(_BEFORE_REMOVAL))]
    await _long_ago(storage, clock, *tenants)
    new = [recorded(name, clock.now, str(number)) for name in tenants for number in range(3)]
    await append(storage, *new)
    await sealer(storage).seal_all()
    changes = zip(tenants, _BEFORE_REMOVAL, strict=True)
    await tamper(";".join(f"{one[0]} AND tenant = '{tenant}'" for tenant, one in changes))
    await sealer(storage, keep_days=5).remove_old()
    reported = {vars(one)["tenant"]: one.getMessage() for one in caplog.records}
    for tenant, (change, kept, problem) in zip(tenants, _BEFORE_REMOVAL, strict=True):
        assert "kept beyond their time" in reported[tenant], change
        assert problem in reported[tenant]
        assert len(await storage.list_audit(tenant, MANY)) == kept, change
        assert problem in str((await verdict(storage, tenant)).problem), change


async def test_whole_batches_are_removed_in_their_order(
    storage: Storage, clock: ManualClock
) -> None:
    await _long_ago(storage, clock, "acme")
    for left in (6, 3, 0):
        done = await storage.remove_audit("acme", KEYS, clock.now, 1)
        assert (done.records, done.problem) == (3, None)
        found = await verdict(storage)
        assert (found.problem, found.records, found.removed) == (None, left, 9 - left)
    assert (await storage.remove_audit("acme", KEYS, clock.now, 1)).records == 0
    page = await storage.audit_page("acme", KEYS, 9, 9, 1)
    assert [cut.through_sequence for cut in page.cuts] == [9]


async def test_a_removal_that_never_was_stops_the_chain(
    storage: Storage, clock: ManualClock, tamper: Change, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await three_batches(storage, "acme")
    await tamper("INSERT INTO audit_cuts SELECT tenant, 6, 1, hash FROM audit_seals LIMIT 1")
    await append(storage, recorded("acme", clock.now))
    await sealer(storage).seal_all()
    assert "in the name of retention" in caplog.text
    assert (await storage.audit_page("acme", KEYS, 9, 9, 1)).end is not None
    assert len([one for one in await storage.list_audit("acme", MANY) if not one.sequence]) == 1


async def test_seals_are_checked_when_their_records_are_gone(
    storage: Storage, clock: ManualClock, tamper: Change
) -> None:
    await _long_ago(storage, clock, "acme")
    await sealer(storage, keep_days=5).remove_old()
    await tamper("UPDATE audit_seals SET sealed_at = sealed_at + 1 WHERE number = 3")
    assert "batch 3 does not match its seal" in str((await verdict(storage)).problem)
    await tamper(
        "UPDATE audit_seals SET sealed_at = sealed_at - 1 WHERE number = 3;"
        "UPDATE audit_seals SET content = substr(content, 1, 0) WHERE number = 2"
    )
    assert "batch 2 was sealed with another key" in str((await verdict(storage)).problem)


# --- a store at work -------------------------------------------------------------------------


async def test_a_store_at_work_is_no_tampering(
    storage: Storage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "_SEALS_A_PAGE", 1)
    await _long_ago(storage, clock, "acme")
    seen = type(storage).audit_page
    pages = 0

    async def meanwhile(*arguments: Any) -> object:
        """Before each page a batch is removed; after the last one a batch is sealed."""
        nonlocal pages
        pages += 1
        await storage.remove_audit("acme", KEYS, clock.now, 1)
        page = await seen(storage, *arguments)
        if pages in (3, 4):
            await append(storage, recorded("acme", clock.now, str(pages)))
            await sealer(storage).seal_all()
        return page

    monkeypatch.setattr(storage, "audit_page", meanwhile)
    found = await verdict(storage)
    assert (found.problem, found.batches) == (None, 4 if pages == 5 else 5)
    assert pages >= 5
