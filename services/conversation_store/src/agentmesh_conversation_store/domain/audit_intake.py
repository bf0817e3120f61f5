"""Which records are sealed: those that the store wrote, and no others that its database has."""

from __future__ import annotations

from dataclasses import dataclass

from .audit_keys import AuditKeys
from .ledger import AuditRecord
from .model import Instant

PUT_ASIDE = -1
"""The place of a record that is not sealed, and not forgotten either."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What is known when records are about to be sealed.

    Records of before `removed_before` were removed by retention: one that comes now is a copy of
    one of those. Records without a mark pass until `unmarked_through`, shortly after an upgrade.
    """

    keys: AuditKeys
    now: Instant
    removed_before: Instant = 0
    unmarked_through: Instant = 0

    def takes(self, record: AuditRecord) -> bool:
        """Whether the store wrote it, as it is, and for the first time."""
        try:
            if record.time < self.removed_before:
                return False
            if not record.mac:
                return self.now < self.unmarked_through
            return self.keys.marked(record)
        except TypeError:  # SQLite takes values of any type that somebody puts there
            return False
