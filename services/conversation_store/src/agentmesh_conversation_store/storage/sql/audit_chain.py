"""The chains of audit records: sealed in batches, gone through, shortened when they are old."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_conversation_store.domain.audit_chain import (
    Chain,
    Cut,
    Seal,
    cut,
    is_genuine,
    is_intact,
    seal,
)
from agentmesh_conversation_store.domain.audit_intake import PUT_ASIDE, Intake
from agentmesh_conversation_store.domain.audit_keys import AuditKeys
from agentmesh_conversation_store.domain.ledger import AuditRecord
from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.audit import ChainEnd, ChainPage, Removal, Sealing

from .plan import Alone, Plan, each, fetch, first, now
from .tables import AUDIT, CUT_OVERS, CUTS, SEALS

_SEALED_AT_ONCE = 1000
_SHORTENED_AT_ONCE = 100
_JUDGED_AT_ONCE = 1000
_NAMED = 3

_RECORDS = f"SELECT {AUDIT.select} FROM audit_records WHERE tenant = ?"
_TO_SEAL = f"{_RECORDS} AND sequence = 0 ORDER BY time, record_id LIMIT ?"
_AFTER = f"{_RECORDS} AND sequence > ? ORDER BY sequence LIMIT ?"
_SEALED = f"{_RECORDS} AND sequence BETWEEN ? AND ? ORDER BY sequence"
_PLACE = "UPDATE audit_records SET sequence = ? WHERE tenant = ? AND time = ? AND record_id = ?"
_SEALS = f"SELECT {SEALS.select} FROM audit_seals WHERE tenant = ?"
_LAST_SEAL = f"{_SEALS} ORDER BY number DESC LIMIT 1"
_NEWEST_SEALS = (
    f"SELECT {SEALS.select} FROM audit_seals s"
    " WHERE number = (SELECT max(number) FROM audit_seals WHERE tenant = s.tenant)"
)
_SEAL = f"{_SEALS} AND number = ?"
_SEAL_AT = f"{_SEALS} AND last_sequence = ?"
_NEXT_SEALS = f"{_SEALS} AND number > ? ORDER BY number LIMIT ?"
_CUTS = f"SELECT {CUTS.select} FROM audit_cuts WHERE tenant = ? ORDER BY through_sequence"
_SUPERSEDED = "DELETE FROM audit_cuts WHERE tenant = ? AND through_sequence < ?"
_CUT_OVERS = f"SELECT {CUT_OVERS.select} FROM audit_cut_overs WHERE tenant = ''"
_REMOVE = "DELETE FROM audit_records WHERE tenant = ? AND sequence BETWEEN 1 AND ? RETURNING 1"

NOT_SIGNED = "records were removed in the name of retention, which the store did not sign"


# --- sealing ---------------------------------------------------------------------------------


def waiting() -> Plan[Sequence[str]]:
    """Tenants with records that are not sealed."""
    rows = yield from fetch("SELECT DISTINCT tenant FROM audit_records WHERE sequence = 0")
    return [tenant for (tenant,) in rows]


def seal_some(keys: AuditKeys, tenant: str, limit: int, known: Seal | None) -> Plan[Sealing]:
    """Seals the oldest records that are not, at most `limit`, unless the chain lacks the seal that
    is `known`. Replicas do it one after the other, so that there is one chain."""
    yield Alone(f"audit/{tenant}")
    return (yield from _seal(keys, tenant, limit, known))


def cut_over(keys: AuditKeys) -> Plan[None]:
    """Seals what stands in a database of an earlier release, which marked no records, and lets such
    records pass for a while. Nobody else works on the audit log meanwhile.

    Raises Rejection, before anything is signed, if none of the keys has sealed anything here.
    """
    yield from _insist_on_keys(keys)
    said = keys.cut_over((yield from now()))
    yield from each(CUT_OVERS.add, [CUT_OVERS.row(one) for one in said])
    for tenant in (yield from waiting()):
        while (yield from _seal(keys, tenant, _SEALED_AT_ONCE, None)).more:
            pass


def _insist_on_keys(keys: AuditKeys) -> Plan[None]:
    """One newest seal of theirs is enough: others may be of keys that were given up, or forged."""
    rows = yield from fetch(_NEWEST_SEALS)
    found = sorted({str(SEALS.value(row).key_id) for row in rows})
    if found and not any(keys.find(key_id) for key_id in found):
        raise Rejection(
            Reason.DATABASE_UNAVAILABLE,
            "the audit log of this database was sealed with other keys"
            f" ({', '.join(found[:_NAMED])}):"
            " set AGENTMESH_AUDIT_KEY, or API_KEY_SECRET where there was none, to what it was."
            " Nothing was upgraded",
        )


def _seal(keys: AuditKeys, tenant: str, limit: int, known: Seal | None) -> Plan[Sealing]:
    found = [AUDIT.value(row) for row in (yield from fetch(_TO_SEAL, tenant, limit))]
    if not found:
        return Sealing()
    row = yield from first(_LAST_SEAL, tenant)
    last = SEALS.value(row) if row else None
    said = yield from cuts(tenant)
    problem = yield from _unlike(last, known, keys)
    if problem is None and any(not is_genuine(one, keys) for one in said):
        problem = NOT_SIGNED
    if problem is not None:
        return Sealing(problem=problem)
    at = yield from now()
    intake = yield from _intake(keys, tenant, at, said)
    genuine = [one for one in found if intake.takes(one)]
    end = last.last_sequence if last else 0
    squatting = [AUDIT.value(row) for row in (yield from fetch(_AFTER, tenant, end, limit))]
    aside = [*squatting, *(one for one in found if not intake.takes(one))]
    yield from _place(aside, PUT_ASIDE)
    more = len(found) == limit or len(squatting) == limit
    if not genuine or len(squatting) == limit:
        return Sealing(put_aside=aside, more=more)
    made, numbered = seal(genuine, last, at, keys.first)
    yield from each(_PLACE, [(one.sequence, tenant, one.time, one.record_id) for one in numbered])
    yield from each(SEALS.add, [SEALS.row(made)])
    return Sealing(made, aside, more)


def _place(records: Sequence[AuditRecord], sequence: int) -> Plan[None]:
    yield from each(_PLACE, [(sequence, one.tenant, one.time, one.record_id) for one in records])


def _unlike(last: Seal | None, known: Seal | None, keys: AuditKeys) -> Plan[str | None]:
    """Why nothing can be sealed after this seal; None if it is as it should be."""
    if last is not None and keys.find(last.key_id) is None:
        return f"batch {last.number} was sealed with a key that is not here ({last.key_id})"
    if last is not None and not is_intact(last, keys):
        return f"batch {last.number} is not as it was sealed"
    if known is None:
        return None
    if last is None or last.number < known.number:
        there = last.number if last else 0
        return f"it ends at batch {there}, and had {known.number} already"
    row = yield from first(_SEAL, known.tenant, known.number)
    if row is None or SEALS.value(row).hash != known.hash:
        return f"batch {known.number} is not the one that was sealed"
    return None


def _intake(keys: AuditKeys, tenant: str, at: Instant, said: Sequence[Cut]) -> Plan[Intake]:
    cut_overs = [CUT_OVERS.value(row) for row in (yield from fetch(_CUT_OVERS))]
    through = _signed_through(said, keys)
    removed_before = 0
    if through:
        row = yield from first(_SEAL_AT, tenant, through)
        if row is not None and is_intact(SEALS.value(row), keys):
            removed_before = SEALS.value(row).sealed_at
    return Intake(keys, at, removed_before, keys.through_cut_over(cut_overs))


def reconsider(keys: AuditKeys, limit: int) -> Plan[int]:
    """Lets records wait again that were put aside and are the store's after all, as those are that
    a replica with newer keys wrote; how many. It looks at `limit` of each tenant at most."""
    taken = 0
    rows = yield from fetch("SELECT DISTINCT tenant FROM audit_records WHERE sequence < 0")
    for (tenant,) in rows:
        yield Alone(f"audit/{tenant}")
        at, said = (yield from now()), (yield from cuts(tenant))
        intake = yield from _intake(keys, tenant, at, said)
        found = yield from fetch(f"{_RECORDS} AND sequence = {PUT_ASIDE} LIMIT ?", tenant, limit)
        genuine = [one for one in map(AUDIT.value, found) if intake.takes(one)]
        yield from _place(genuine, 0)
        taken += len(genuine)
    return taken


# --- retention -------------------------------------------------------------------------------


def remove_some(keys: AuditKeys, tenant: str, before: Instant | None, limit: int) -> Plan[Removal]:
    """Removes the oldest batches that were sealed before then: whole ones, in their order, each
    checked first, until about `limit` records are gone."""
    yield Alone(f"audit/{tenant}")
    said = yield from cuts(tenant)
    if any(not is_genuine(one, keys) for one in said):
        return Removal(problem=NOT_SIGNED)
    through = _signed_through(said, keys)
    # An earlier release said it first, and removed records bit by bit.
    left = yield from fetch(_REMOVE, tenant, through)
    if left or before is None:
        return Removal(len(left))
    chain = Chain(tenant, keys)
    if through:
        row = yield from first(_SEAL_AT, tenant, through)
        problem = chain.resume(SEALS.value(row)) if row else f"no batch ends at record {through}"
        if problem is not None:
            return Removal(problem=problem)
    through, problem = yield from _removable(chain, before, limit)
    if not through:
        return Removal(problem=problem)
    at = yield from now()
    yield from each(CUTS.add, [CUTS.row(cut(tenant, through, at, keys.first))])
    yield from each(_SUPERSEDED, [(tenant, through)])
    return Removal(len((yield from fetch(_REMOVE, tenant, through))), problem)


def _removable(chain: Chain, before: Instant, limit: int) -> Plan[tuple[int, str | None]]:
    """The last place of the batches that may go, 0 if none may; and what is broken there, if
    something is."""
    through = 0
    rows = yield from fetch(_NEXT_SEALS, chain.tenant, chain.batches, _SHORTENED_AT_ONCE)
    for one in map(SEALS.value, rows):
        problem = chain.check(one, (yield from _records_of(one)))
        if problem is not None:
            return through, problem
        if one.sealed_at >= before:
            break
        through = one.last_sequence
        if chain.records >= limit:
            break
    return through, None


def _signed_through(said: Sequence[Cut], keys: AuditKeys) -> int:
    return max((one.through_sequence for one in said if is_genuine(one, keys)), default=0)


# --- reading a chain -------------------------------------------------------------------------


def tenants() -> Plan[Sequence[str]]:
    """Tenants with seals or records."""
    found: set[str] = set()
    for table in ("audit_seals", "audit_records"):
        # From one to the next by the index: there are many rows and few tenants.
        rows = yield from fetch(
            f"WITH RECURSIVE known (tenant) AS (SELECT min(tenant) FROM {table} UNION ALL"
            f" SELECT (SELECT min(tenant) FROM {table} WHERE tenant > known.tenant)"
            " FROM known WHERE known.tenant IS NOT NULL)"
            " SELECT tenant FROM known WHERE tenant IS NOT NULL"
        )
        found.update(tenant for (tenant,) in rows)
    # SQLite gives bytes where somebody put them.
    return sorted(found, key=repr)


def page(
    keys: AuditKeys, tenant: str, after: int, last_sequence: int, limit: int
) -> Plan[ChainPage]:
    """Seals with a number above `after`, each with the records that stand at its places; if there
    are none, what stands beside a chain that ends at `last_sequence`."""
    said = yield from cuts(tenant)
    rows = yield from fetch(_NEXT_SEALS, tenant, after, limit)
    found = []
    for one in map(SEALS.value, rows):
        found.append((one, (yield from _records_of(one))))
    end = None if rows else (yield from _end(keys, tenant, last_sequence, said))
    return ChainPage(said, found, end)


def cuts(tenant: str) -> Plan[Sequence[Cut]]:
    """What retention removed, in order."""
    return [CUTS.value(row) for row in (yield from fetch(_CUTS, tenant))]


def _records_of(one: Seal) -> Plan[Sequence[AuditRecord]]:
    rows = yield from fetch(_SEALED, one.tenant, one.first_sequence, one.last_sequence)
    return [AUDIT.value(row) for row in rows]


def _end(keys: AuditKeys, tenant: str, last_sequence: int, said: Sequence[Cut]) -> Plan[ChainEnd]:
    count = "SELECT count(*) FROM audit_records WHERE tenant = ? AND sequence"
    misplaced = 0
    for condition, bound in (("> ?", last_sequence), ("< 0 AND sequence <> ?", PUT_ASIDE)):
        row = yield from first(f"{count} {condition}", tenant, bound)
        misplaced += int(row[0]) if row else 0
    intake = yield from _intake(keys, tenant, (yield from now()), said)
    unsealed = 0
    foreign: list[str] = []
    for place in (0, PUT_ASIDE):
        further = ""
        position: tuple[int | str, ...] = ()
        while True:
            rows = yield from fetch(
                f"{_RECORDS} AND sequence = {place} {further} ORDER BY time, record_id LIMIT ?",
                tenant,
                *position,
                _JUDGED_AT_ONCE,
            )
            records = [AUDIT.value(row) for row in rows]
            unknown = [one.record_id for one in records if not intake.takes(one)]
            unsealed += len(records) - len(unknown)
            foreign += unknown
            if len(records) < _JUDGED_AT_ONCE:
                break
            further = "AND (time, record_id) > (?, ?)"
            position = (records[-1].time, records[-1].record_id)
    return ChainEnd(misplaced, unsealed, foreign)
