"""Who did what, as a storage keeps it, and the chains that it is sealed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agentmesh_conversation_store.domain.audit_chain import Cut, Seal
from agentmesh_conversation_store.domain.audit_keys import AuditKeys
from agentmesh_conversation_store.domain.ledger import AuditQuery, AuditRecord
from agentmesh_conversation_store.domain.model import Instant

if TYPE_CHECKING:
    from .requests import Request


@dataclass(frozen=True, slots=True)
class Sealing:
    """What came of one look for records to seal. `put_aside` were not written by the store, or not
    like this. With a `problem` nothing was sealed: the chain is not what it was."""

    seal: Seal | None = None
    put_aside: Sequence[AuditRecord] = ()
    more: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """How many records retention removed, whole batches of them. With a `problem` none but those
    before the place that it names."""

    records: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """What there is beside a chain at its end: records that claim places that it did not give, such
    as wait to be sealed, and ids of those that wait or were put aside and are not the store's."""

    misplaced: int
    waiting: int
    foreign: Sequence[str]


@dataclass(frozen=True, slots=True)
class ChainPage:
    """Some seals with their records, and the cuts, all as of one instant. The end if there are no
    more seals."""

    cuts: Sequence[Cut]
    seals: Sequence[tuple[Seal, Sequence[AuditRecord]]]
    end: ChainEnd | None = None


class AuditLog(Protocol):
    """The part of a storage that keeps it. What the store itself carries out for somebody is
    recorded by the command, in its transaction."""

    async def append_audit(self, records: Sequence[AuditRecord], request: Request[None]) -> None:
        """Keeps a batch of records of any tenants; a repeated request changes nothing."""
        ...

    async def list_audit(self, tenant: str, query: AuditQuery) -> Sequence[AuditRecord]:
        """The tenant's records, newest first."""
        ...

    async def tenants_to_seal(self) -> Sequence[str]:
        """Tenants with audit records that have no place in their chain yet."""
        ...

    async def seal_audit(
        self, tenant: str, keys: AuditKeys, limit: int, known: Seal | None = None
    ) -> Sealing:
        """Seals the oldest of them that the store wrote, at most `limit`, and puts others aside.
        Seals nothing if the chain does not have the seal that is `known`."""
        ...

    async def reconsider_audit(self, keys: AuditKeys, limit: int) -> int:
        """Lets those wait again that were put aside and are the store's by these keys; how many. Of
        each tenant it looks at `limit`."""
        ...

    async def remove_audit(
        self, tenant: str, keys: AuditKeys, before: Instant | None, limit: int
    ) -> Removal:
        """Removes whole batches that were sealed before then and are as they were sealed, in their
        order, until about `limit` records are gone. Their seals stay, and a signed note of it. With
        None it ends what was begun."""
        ...

    async def audited_tenants(self) -> Sequence[str]:
        """Tenants with audit records or seals, by name; "" for calls of nobody known."""
        ...

    async def audit_page(
        self, tenant: str, keys: AuditKeys, after: int, last_sequence: int, limit: int
    ) -> ChainPage:
        """The tenant's seals with a number above `after`, which ends at the place `last_sequence`,
        each with its records."""
        ...
