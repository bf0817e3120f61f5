"""The audit log in every storage: what is recorded, how it is sealed, what verification finds."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from agentmesh_conversation_store.auditing import verify
from agentmesh_conversation_store.domain.conversations import CancelConversation
from agentmesh_conversation_store.domain.history import DeleteConversation
from agentmesh_conversation_store.domain.ledger import (
    DAY,
    AuditPosition,
    AuditQuery,
    TenantPolicy,
)
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.sealing import sealing_keys
from agentmesh_conversation_store.settings import StoreSettings
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.requests import Request
from meshkit.call_origin import CallOrigin, received_scope
from meshkit.context import principal_scope
from pydantic import SecretStr, ValidationError

from services.conversation_store.tests.audit_log import (
    KEYS,
    MANY,
    OTHER_KEYS,
    Change,
    append,
    batch,
    recorded,
    sealer,
    three_batches,
    verdict,
)
from services.conversation_store.tests.support import ACME, ManualClock, start_command

# --- what is recorded ------------------------------------------------------------------------


async def test_batches_are_kept_once_and_tenants_never_meet(storage: Storage) -> None:
    records = [recorded("acme", 10, "a"), recorded("other", 11, "b"), recorded("acme", 12, "c")]
    for _ in range(2):
        await storage.append_audit(records, batch("b1"))
    with pytest.raises(Rejection) as refused:
        await storage.append_audit(records[:1], batch("b1", b"another"))
    assert refused.value.reason is Reason.REQUEST_ID_REUSED
    assert await storage.list_audit("acme", MANY) == [records[2], records[0]]
    assert await storage.list_audit("other", MANY) == [records[1]]


async def test_pages_leave_nothing_out_at_equal_times(storage: Storage) -> None:
    same = [recorded("acme", 100, str(number)) for number in range(9)]
    await append(storage, *same)
    await append(storage, recorded("acme", 200, "late"))
    seen: list[str] = []
    query = AuditQuery(4, since=100, until=200)
    while page := await storage.list_audit("acme", query):
        seen += [record.method for record in page]
        query = replace(query, before=AuditPosition(page[-1].time, page[-1].record_id))
    assert seen == [str(number) for number in reversed(range(9))]


async def test_records_are_found_by_who_what_and_how_it_ended(storage: Storage) -> None:
    plain = recorded("acme", 1, "plain")
    others = {
        "principal": replace(plain, record_id="r1", principal="bob"),
        "method": replace(plain, record_id="r2", method="M"),
        "resource": replace(plain, record_id="r3", resource="key:key_1"),
        "code": replace(plain, record_id="r4", code="NOT_FOUND"),
    }
    await append(storage, plain, *others.values())
    for field, record in others.items():
        wanted = replace(MANY, **{field: getattr(record, field)})
        assert await storage.list_audit("acme", wanted) == [record], field


async def test_a_change_is_recorded_in_its_own_transaction(storage: Storage) -> None:
    origin = CallOrigin("call_1", "Public/Start", "", "1.2.3.4", "ab", "r1")
    request: Request[Any] = Request("acme", "r1", b"d", lambda _: b"answer")
    command = start_command()
    with principal_scope(ACME), received_scope(origin):
        await storage.execute_once(command, request)
    with principal_scope(ACME), received_scope(replace(origin, call_id="call_2")):
        await storage.execute_once(start_command(), request)  # a repetition
    with principal_scope(ACME), received_scope(replace(origin, call_id="call_3")):
        with pytest.raises(Rejection):
            await storage.execute(CancelConversation("acme", "conv_none", "why"))
        await storage.put_tenant_policy(TenantPolicy("acme"), "")
    await storage.execute(CancelConversation("acme", command.conversation_id, "by the mesh itself"))
    found = {one.record_id: one for one in await storage.list_audit("acme", MANY)}
    assert set(found) == {"call_1", "call_2", "call_3"}
    first = found["call_1"]
    assert (first.principal, first.method, first.code) == ("alice", "Public/Start", "OK")
    assert (first.peer, first.trace_id, first.request_id) == ("1.2.3.4", "ab", "r1")
    assert first.resource == f"conversation:{command.conversation_id}"
    assert found["call_3"].resource == "policy"


async def test_what_a_deleted_conversation_was_about_stays_on_record(storage: Storage) -> None:
    command = start_command()
    with principal_scope(ACME), received_scope(CallOrigin("call_1", "Start")):
        await storage.execute(command)
    with principal_scope(ACME), received_scope(CallOrigin("call_2", "Delete")):
        await storage.execute(DeleteConversation("acme", command.conversation_id))
    assert [one.method for one in await storage.list_audit("acme", MANY)] == ["Delete", "Start"]


# --- sealing ---------------------------------------------------------------------------------


async def test_replicas_seal_one_chain(replicas: list[Storage]) -> None:
    for number in range(40):
        await append(replicas[0], recorded("acme", number, "m"), recorded("other", number, "m"))

    async def some(storage: Storage) -> None:
        while (await storage.seal_audit("acme", KEYS, 3)).seal:
            pass

    await asyncio.gather(*(some(storage) for storage in replicas * 2))
    await sealer(replicas[1]).seal_all()
    for tenant in ("acme", "other"):
        found = await verdict(replicas[0], tenant)
        assert (found.problem, found.records, found.unsealed) == (None, 40, 0)
    listed = await replicas[0].list_audit("acme", MANY)
    assert sorted(one.sequence for one in listed) == list(range(1, 41))


async def test_what_came_is_sealed_when_the_store_stops(storage: Storage) -> None:
    at_work = sealer(storage)
    await at_work.start()
    await append(storage, recorded("acme", 1, "m"))
    await at_work.stop()
    assert (await verdict(storage)).records == 1


async def test_records_cannot_be_changed_or_removed(storage: Storage, run_sql: Change) -> None:
    await append(storage, recorded("acme", 1, "m"))
    await sealer(storage).seal_all()
    await append(storage, recorded("acme", 2, "unsealed"))
    for sql in (
        "UPDATE audit_records SET principal = 'nobody'",
        "UPDATE audit_records SET sequence = 7 WHERE sequence = 1",
        "DELETE FROM audit_records WHERE sequence = 1",
        "DELETE FROM audit_records WHERE sequence = 0",
        "UPDATE audit_seals SET number = 2",
        "DELETE FROM audit_seals",
    ):
        with pytest.raises((asyncpg.RaiseError, sqlite3.IntegrityError), match="append-only"):
            await run_sql(sql)


# --- verification ----------------------------------------------------------------------------

_TAMPERING = {
    "a field": (
        "UPDATE audit_records SET principal = 'mallory' WHERE tenant = 'acme' AND sequence = 5",
        "batch 2 does not match its seal",
    ),
    "a code": (
        "UPDATE audit_records SET code = 'NOT_FOUND' WHERE tenant = 'acme' AND sequence = 1",
        "batch 1 does not match its seal",
    ),
    "a removed record": (
        "DELETE FROM audit_records WHERE tenant = 'acme' AND sequence = 6",
        "record 6 of batch 2 is missing",
    ),
    "an unsealed record": (
        "UPDATE audit_records SET sequence = 0 WHERE tenant = 'acme' AND sequence = 6",
        "record 6 of batch 2 is missing",
    ),
    "a removed batch": (
        "DELETE FROM audit_records WHERE tenant = 'acme' AND sequence BETWEEN 4 AND 6;"
        "DELETE FROM audit_seals WHERE tenant = 'acme' AND number = 2",
        "batch 2 is missing",
    ),
    "a removed batch, renumbered": (
        "DELETE FROM audit_records WHERE tenant = 'acme' AND sequence BETWEEN 4 AND 6;"
        "DELETE FROM audit_seals WHERE tenant = 'acme' AND number = 2;"
        "UPDATE audit_seals SET number = 2, first_sequence = 4, last_sequence = 6"
        " WHERE tenant = 'acme' AND number = 3;"
        "UPDATE audit_records SET sequence = sequence - 3 WHERE tenant = 'acme' AND sequence > 6",
        "batch 2 does not follow",
    ),
    "an inserted record": (
        "INSERT INTO audit_records SELECT tenant, 'forged', time, principal, method, resource,"
        " code, peer, trace_id, request_id, 10, mac FROM audit_records"
        " WHERE tenant = 'acme' AND sequence = 1",
        "claim places that no batch covers",
    ),
    "exchanged records": (
        "UPDATE audit_records SET sequence = 99 WHERE tenant = 'acme' AND sequence = 4;"
        "UPDATE audit_records SET sequence = 4 WHERE tenant = 'acme' AND sequence = 5;"
        "UPDATE audit_records SET sequence = 5 WHERE tenant = 'acme' AND sequence = 99",
        "batch 2 does not match its seal",
    ),
    "exchanged seals": (
        "UPDATE audit_seals SET number = 99 WHERE tenant = 'acme' AND number = 2;"
        "UPDATE audit_seals SET number = 2 WHERE tenant = 'acme' AND number = 3;"
        "UPDATE audit_seals SET number = 3 WHERE tenant = 'acme' AND number = 99",
        "batch 2 does not begin",
    ),
    "records of another tenant": (
        "DELETE FROM audit_records WHERE tenant = 'acme';"
        "DELETE FROM audit_seals WHERE tenant = 'acme';"
        "UPDATE audit_records SET tenant = 'acme' WHERE tenant = 'other';"
        "UPDATE audit_seals SET tenant = 'acme' WHERE tenant = 'other'",
        "batch 1 does not match its seal",
    ),
    "a retention that never was": (
        "DELETE FROM audit_records WHERE tenant = 'acme' AND sequence <= 3;"
        "INSERT INTO audit_cuts SELECT 'acme', 3, 1, signature FROM audit_seals"
        " WHERE tenant = 'acme' AND number = 1",
        "in the name of retention",
    ),
}


async def test_verification_finds(storage: Storage, tamper: Change) -> None:
    """Each kind in chains of its own, all in one database."""
    tenants = {kind: f"acme-{number}" for number, kind in enumerate(_TAMPERING)}
    await three_batches(storage, "other", "untouched", *tenants.values())
    before = await verify(storage, KEYS, {})
    assert {(one.problem, one.batches, one.records) for one in before} == {(None, 3, 9)}
    done = (sql.replace("'acme'", f"'{tenants[kind]}'") for kind, (sql, _) in _TAMPERING.items())
    await tamper(";".join(done))
    found = {one.tenant: str(one.problem) for one in await verify(storage, KEYS, {})}
    for kind, (_, problem) in _TAMPERING.items():
        assert problem in found[tenants[kind]], kind
    assert found["untouched"] == "None"


async def test_a_chain_sealed_again_with_another_key_is_found(
    storage: Storage, tamper: Change
) -> None:
    await three_batches(storage, "acme", "other")
    await tamper(
        "UPDATE audit_records SET sequence = 0 WHERE tenant = 'acme';"
        "DELETE FROM audit_seals WHERE tenant = 'acme'"
    )
    await sealer(storage, OTHER_KEYS).seal_all()
    assert "sealed with another key" in str((await verdict(storage)).problem)
    await tamper(f"UPDATE audit_seals SET key_id = '{KEYS.first.key_id}'")  # noqa: S608  a constant
    assert "sealed with another key" in str((await verdict(storage)).problem)


def test_the_first_key_seals_and_none_is_short(tmp_path: Path) -> None:
    first, second = "a" * 32, "b" * 32
    plain = StoreSettings(data_dir=tmp_path)
    keyed = StoreSettings(data_dir=tmp_path, audit_key=SecretStr(f"{first}, {second}"))
    (made,) = sealing_keys(plain)
    assert sealing_keys(keyed)[2] == made
    changed = StoreSettings(data_dir=tmp_path, audit_key=SecretStr(f"{second},{first}"))
    assert sealing_keys(keyed)[:2] == list(reversed(sealing_keys(changed)[:2]))
    assert len({key.key_id for key in sealing_keys(keyed)}) == 3
    with pytest.raises(ValidationError, match="32 characters") as refused:
        StoreSettings(data_dir=tmp_path, audit_key=SecretStr(f"{first},short"))
    assert "short" not in str(refused.value).replace("at least", "")


async def test_keys_can_be_exchanged(storage: Storage) -> None:
    await append(storage, recorded("acme", 1, "m"))
    await sealer(storage).seal_all()
    await append(storage, recorded("acme", 2, "m"))
    await sealer(storage, OTHER_KEYS).seal_all()
    await append(storage, recorded("acme", 3, "m"))
    await sealer(storage).seal_all()  # does not have the newer one, and waits
    (both,) = await verify(storage, OTHER_KEYS, {})
    assert (both.problem, both.batches) == (None, 2)
    assert "sealed with another key" in str((await verdict(storage)).problem)


async def test_a_remembered_head_shows_what_was_cut_off(storage: Storage, tamper: Change) -> None:
    await three_batches(storage, "acme", "other")
    head = (await verdict(storage)).head
    assert head.number == 3
    await tamper(
        "DELETE FROM audit_records WHERE tenant = 'acme' AND sequence > 6;"
        "DELETE FROM audit_seals WHERE tenant = 'acme' AND number = 3"
    )
    assert (await verdict(storage)).problem is None
    assert "ends at batch 2, and had 3" in str((await verdict(storage, acme=head)).problem)
    # Nor does a chain that went on differently from there pass.
    await append(storage, recorded("acme", 50, "later"))
    await sealer(storage).seal_all()
    assert (await verdict(storage)).problem is None
    assert "not the one that is remembered" in str((await verdict(storage, acme=head)).problem)
    await tamper(
        "DELETE FROM audit_records WHERE tenant = 'acme';"
        "DELETE FROM audit_seals WHERE tenant = 'acme'"
    )
    assert "ends at batch 0" in str((await verdict(storage, acme=head)).problem)


async def test_retention_removes_records_and_the_chain_still_verifies(
    storage: Storage, clock: ManualClock, tamper: Change
) -> None:
    await three_batches(storage, "acme", "other")
    clock.now += 10 * DAY
    await append(storage, recorded("acme", 99, "new"))
    await sealer(storage).seal_all()
    assert await sealer(storage).remove_old() == 0
    assert await sealer(storage, keep_days=11).remove_old() == 0
    assert await sealer(storage, keep_days=5).remove_old() == 18
    assert await sealer(storage, keep_days=5).remove_old() == 0
    found = await verdict(storage)
    assert (found.problem, found.batches, found.records, found.removed) == (None, 4, 1, 9)
    assert [one.method for one in await storage.list_audit("acme", MANY)] == ["new"]
    # What retention did not remove must be there.
    await tamper("DELETE FROM audit_records WHERE tenant = 'acme'")
    assert "record 10 of batch 4 is missing" in str((await verdict(storage)).problem)
