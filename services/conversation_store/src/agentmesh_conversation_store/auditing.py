"""Goes through the chains of audit records, and says what is broken in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .domain.audit_chain import Chain, Head, is_genuine
from .domain.audit_keys import AuditKeys
from .domain.rejections import Reason, Rejection
from .storage.audit import ChainEnd, ChainPage
from .storage.interface import Storage

_SEALS_A_PAGE = 50
_NAMED = 3


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
    storage: Storage, keys: AuditKeys, remembered: Mapping[str, Head]
) -> list[Verdict]:
    """A verdict for each tenant that has records, or of which a head is remembered."""
    tenants = {*await storage.audited_tenants(), *remembered}
    return [
        await verify_tenant(storage, tenant, keys, remembered.get(tenant))
        for tenant in sorted(tenants, key=repr)  # SQLite gives bytes where somebody put them
    ]


async def verify_tenant(
    storage: Storage, tenant: str, keys: AuditKeys, remembered: Head | None = None
) -> Verdict:
    """Checks one chain from its beginning, up to and beyond the head that somebody remembers.

    Each page is seen as of one instant, and what stands beside the chain together with there being
    no more of it: a store that seals and removes meanwhile is no tampering.
    """
    chain = Chain(tenant, keys)
    problem, end = None, None
    while problem is None and end is None:
        try:
            page = await storage.audit_page(
                tenant, keys, chain.batches, chain.last_sequence, _SEALS_A_PAGE
            )
        except Rejection as rejection:
            if rejection.reason is not Reason.CORRUPT:
                raise
            problem = f"what follows batch {chain.batches} cannot be read: {rejection.message}"
        else:
            problem, end = _check(chain, page, keys, remembered), page.end
    if problem is None and end is not None:
        problem = _beside(end)
    if problem is None and remembered is not None and chain.batches < remembered.number:
        problem = f"the chain ends at batch {chain.batches}, and had {remembered.number} already"
    unsealed = end.waiting if end is not None else 0
    return Verdict(
        tenant, chain.batches, chain.records, chain.removed, unsealed, chain.head, problem
    )


def _check(chain: Chain, page: ChainPage, keys: AuditKeys, remembered: Head | None) -> str | None:
    if any(not is_genuine(cut, keys) for cut in page.cuts):
        return "records were removed in the name of retention, which the store did not sign"
    chain.cut_through = max((cut.through_sequence for cut in page.cuts), default=0)
    for seal, records in page.seals:
        problem = chain.check(seal, records) or _differs(chain.head, remembered)
        if problem is not None:
            return problem
    return None


def _beside(end: ChainEnd) -> str | None:
    if end.misplaced:
        return f"{end.misplaced} records claim places that no batch covers"
    if end.foreign:
        ids = ", ".join(map(str, end.foreign[:_NAMED]))
        return f"{len(end.foreign)} records were not written by the store like this: {ids}"
    return None


def _differs(head: Head, remembered: Head | None) -> str | None:
    if remembered is None or head.number != remembered.number or head.hash == remembered.hash:
        return None
    return f"batch {head.number} is not the one that is remembered"
