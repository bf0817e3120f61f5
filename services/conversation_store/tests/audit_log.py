"""The audit log in tests: records, and what seals and verifies them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agentmesh_conversation_store.auditing import Verdict, verify
from agentmesh_conversation_store.domain.audit_chain import Head
from agentmesh_conversation_store.domain.audit_keys import AuditKeys, SealingKey
from agentmesh_conversation_store.domain.ledger import AuditQuery, AuditRecord
from agentmesh_conversation_store.sealing import AuditSealer
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.requests import Request

from services.conversation_store.tests.support import AUDIT_KEYS

KEYS = AUDIT_KEYS
OTHER_KEYS = AuditKeys([SealingKey(b"o" * 32), KEYS.first])
TABLES = ("audit_records", "audit_seals", "audit_cuts", "audit_cut_overs")
MANY = AuditQuery(100)
Change = Callable[[str], Awaitable[None]]


def recorded(tenant: str, time: int, method: str = "m") -> AuditRecord:
    """Something that alice did."""
    name = f"{tenant}-{time}-{method}"
    return AuditRecord(tenant, name, time, "alice", method, "conversation:conv_1", "OK", "1.2.3.4")


def batch(batch_id: str, digest: bytes = b"d") -> Request[None]:
    """What repeats the same batch."""
    return Request("", f"audit/{batch_id}", digest, lambda _: b"")


def sealer(storage: Storage, keys: AuditKeys = KEYS, keep_days: int | None = None) -> AuditSealer:
    """One that has not begun."""
    return AuditSealer(storage, keys, every=1.0, keep_days=keep_days)


async def append(storage: Storage, *records: AuditRecord) -> None:
    """Writes them as the store does."""
    await storage.append_audit(records, batch(records[0].record_id))


async def verdict(storage: Storage, tenant: str = "acme", **heads: Head) -> Verdict:
    """What verification finds of one tenant."""
    return {one.tenant: one for one in await verify(storage, KEYS, heads)}[tenant]


async def three_batches(storage: Storage, *tenants: str) -> None:
    """Of three records each."""
    for number in range(3):
        times = [(10 * number + place, f"m{place}") for place in range(3)]
        await append(storage, *(recorded(name, *time) for name in tenants for time in times))
        await sealer(storage).seal_all()
