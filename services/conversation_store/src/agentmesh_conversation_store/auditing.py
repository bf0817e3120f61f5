"""Goes through the chains of audit records, and says what is broken in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .domain.audit_chain import Chain, Head, SealingKey, is_genuine
from .storage.interface import Storage

_SEALS_A_PAGE = 50


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one tenant. `problem` names the first broken place; None if all is well."""

    tenant: str
    batches: int
    records: int
    removed: int
    unsealed: int
    head: Head
    problem: str | None


async def verify(
    storage: Storage, keys: Sequence[SealingKey], remembered: Mapping[str, Head]
) -> list[Verdict]:
    """A verdict for each tenant that has records, or of which a head is remembered."""
    tenants = {*await storage.audited_tenants(), *remembered}
    return [
        await verify_tenant(storage, tenant, keys, remembered.get(tenant))
        for tenant in sorted(tenants)
    ]


async def verify_tenant(
    storage: Storage, tenant: str, keys: Sequence[SealingKey], remembered: Head | None = None
) -> Verdict:
    """Checks one chain from its beginning, up to and beyond the head that somebody remembers."""
    cuts = await storage.audit_cuts(tenant)
    problem = None
    if any(not is_genuine(cut, keys) for cut in cuts):
        problem = "records were removed in the name of retention, which the store did not sign"
    chain = Chain(tenant, keys, max((cut.through_sequence for cut in cuts), default=0))
    while problem is None:
        page = await storage.sealed_audit(tenant, chain.batches, _SEALS_A_PAGE)
        if not page:
            break
        for seal, records in page:
            problem = chain.check(seal, records) or _differs(chain.head, remembered)
            if problem is not None:
                break
    misplaced, unsealed = await storage.audit_beyond(tenant, chain.last_sequence)
    if problem is None and misplaced:
        problem = f"{misplaced} records claim places that no batch covers"
    if problem is None and remembered is not None and chain.batches < remembered.number:
        problem = f"the chain ends at batch {chain.batches}, and had {remembered.number} already"
    return Verdict(
        tenant, chain.batches, chain.records, chain.removed, unsealed, chain.head, problem
    )


def _differs(head: Head, remembered: Head | None) -> str | None:
    if remembered is None or head.number != remembered.number or head.hash == remembered.hash:
        return None
    return f"batch {head.number} is not the one that is remembered"
