"""The chain that audit records are sealed in: each seal covers a batch of one tenant's records and
the seal before it, under a key that the database does not have.

Whoever can write to the database can change, remove, insert, move and reorder rows, and put values
of other types into some databases. None of that passes `Chain.check`. What a chain alone cannot
show is that its newest seals were cut off: for that, heads are kept elsewhere, see `Head`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from .audit_keys import AuditKeys, SealingKey
from .copying import replace
from .ledger import AuditRecord
from .model import Instant

FIRST_HASH = bytes(32)
"""What stands in the first seal for the one before."""

_FIRST_FORMAT = b"agentmesh audit seal 1"
_FORMAT = b"agentmesh audit seal 2"
_CUT_FORMAT = b"agentmesh audit cut 1"


@dataclass(frozen=True, slots=True)
class Seal:
    """One batch of a tenant's records: those with first <= sequence <= last.

    `content` is a digest of the records, so that the seal can be checked when retention removed
    them; empty in seals of the first format, which cover the records themselves.
    """

    tenant: str
    number: int
    first_sequence: int
    last_sequence: int
    sealed_at: Instant
    previous: bytes
    hash: bytes
    signature: bytes
    key_id: str
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Cut:
    """Retention removed the records up to a sequence. Their seals stay."""

    tenant: str
    through_sequence: int
    cut_at: Instant
    signature: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The newest seal of a tenant, as somebody noted it: no chain may lack it later."""

    tenant: str
    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


def seal(
    records: Sequence[AuditRecord],
    before: Seal | None,
    at: Instant,
    key: SealingKey,
) -> tuple[Seal, Sequence[AuditRecord]]:
    """The next seal, and the records with the sequence that each has now; at least one record."""
    tenant = records[0].tenant
    first = before.last_sequence + 1 if before else 1
    numbered = [record.at(first + index) for index, record in enumerate(records)]
    number = before.number + 1 if before else 1
    previous = before.hash if before else FIRST_HASH
    last = first + len(records) - 1
    content = _content(numbered)
    bare = Seal(tenant, number, first, last, at, previous, b"", b"", key.key_id, content)
    digest = _digest(bare)
    made = replace(bare, hash=digest, signature=key.sign(_FORMAT + digest))
    return made, numbered


def is_intact(found: Seal, keys: AuditKeys) -> bool:
    """Whether one of the keys made this seal as it stands. Of the first format, without the records
    at hand, that is known of its hash alone."""
    key = keys.find(found.key_id)
    if key is None or not _is_well_typed(found):
        return False
    if not found.content:
        return key.signed(found.hash, found.signature)
    return found.hash == _digest(found) and key.signed(_FORMAT + found.hash, found.signature)


def cut(tenant: str, through_sequence: int, at: Instant, key: SealingKey) -> Cut:
    """What says that records up to there were removed by retention."""
    return Cut(tenant, through_sequence, at, key.sign(_cut_digest(tenant, through_sequence, at)))


def is_genuine(cut: Cut, keys: AuditKeys) -> bool:
    """Whether the store said so, under one of these keys."""
    digest = _cut_digest(cut.tenant, cut.through_sequence, cut.cut_at)
    return any(key.signed(digest, cut.signature) for key in keys.all)


class Chain:
    """Checks the seals of one tenant, in their order. `check` says what is broken, or nothing."""

    def __init__(self, tenant: str, keys: AuditKeys) -> None:
        self.tenant = tenant
        self._keys = keys
        self.cut_through = 0
        self.batches = 0
        self.records = 0
        self.removed = 0
        self.last_sequence = 0
        self._hash = FIRST_HASH

    @property
    def head(self) -> Head:
        """The seal that was checked last; number 0 before the first."""
        return Head(self.tenant, self.batches, self._hash.hex())

    def resume(self, found: Seal) -> str | None:
        """Goes on after this seal: the records up to it are gone."""
        if found.tenant != self.tenant or not is_intact(found, self._keys):
            return f"batch {found.number} does not match its seal"
        self._pass(found)
        return None

    def check(self, found: Seal, records: Sequence[AuditRecord]) -> str | None:
        """Checks the next seal with the records of its sequences, in their order."""
        problem = self._check_place(found) or self._check_records(found, records)
        if problem is None:
            self.records += len(records)
            if not records:
                self.removed += found.last_sequence - found.first_sequence + 1
            self._pass(found)
        return problem

    def _pass(self, found: Seal) -> None:
        self.batches = found.number
        self.last_sequence = found.last_sequence
        self._hash = found.hash

    def _check_place(self, found: Seal) -> str | None:
        expected = self.batches + 1
        if found.number != expected:
            return f"batch {expected} is missing"
        if not _is_well_typed(found):
            return f"batch {expected} does not match its seal: its values are of other types"
        if found.tenant != self.tenant:
            return f"batch {expected} belongs to another tenant"
        if found.first_sequence != self.last_sequence + 1 or found.last_sequence < (
            found.first_sequence
        ):
            return f"batch {expected} does not begin where the one before ends"
        if found.previous != self._hash:
            return f"batch {expected} does not follow from the one before"
        if found.content and found.hash != _digest(found):
            return f"batch {expected} does not match its seal: the seal was changed"
        if not is_intact(found, self._keys):
            return f"batch {expected} was sealed with another key ({found.key_id})"
        return None

    def _check_records(self, found: Seal, records: Sequence[AuditRecord]) -> str | None:
        if found.last_sequence <= self.cut_through and not records:
            return None
        present = [record.sequence for record in records]
        for sequence in range(found.first_sequence, found.last_sequence + 1):
            place = sequence - found.first_sequence
            if present[place : place + 1] != [sequence]:
                return f"record {sequence} of batch {found.number} is missing"
        if len(present) != found.last_sequence - found.first_sequence + 1:
            return f"batch {found.number} has a record too many"
        if not _covers(found, records):
            return f"batch {found.number} does not match its seal: a record was changed"
        return None


def _is_well_typed(found: Seal) -> bool:
    numbers = (found.number, found.first_sequence, found.last_sequence, found.sealed_at)
    raw = (found.previous, found.hash, found.signature, found.content)
    return (
        isinstance(found.tenant, str)
        and all(isinstance(number, int) for number in numbers)
        and all(isinstance(one, bytes) for one in raw)
    )


def _covers(found: Seal, records: Sequence[AuditRecord]) -> bool:
    if not all(isinstance(one, (str, int)) for record in records for one in record.sealed_fields):
        return False
    if found.content:
        return found.content == _content(records)
    return found.hash == _framed_digest(_FIRST_FORMAT, found, _digests(records))


def _digest(found: Seal) -> bytes:
    return _framed_digest(_FORMAT, found, [found.content])


def _framed_digest(form: bytes, found: Seal, rest: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256(form)
    for part in (
        found.tenant,
        found.number,
        found.first_sequence,
        found.last_sequence,
        found.sealed_at,
    ):
        digest.update(_framed(part))
    digest.update(found.previous)
    for one in rest:
        digest.update(one)
    return digest.digest()


def _content(records: Sequence[AuditRecord]) -> bytes:
    return hashlib.sha256(b"".join(_digests(records))).digest()


def _digests(records: Sequence[AuditRecord]) -> list[bytes]:
    return [
        hashlib.sha256(b"".join(_framed(part) for part in record.sealed_fields)).digest()
        for record in records
    ]


def _cut_digest(tenant: str, through: int, at: Instant) -> bytes:
    parts = b"".join(_framed(part) for part in (tenant, through, at))
    return hashlib.sha256(_CUT_FORMAT + parts).digest()


def _framed(value: str | int) -> bytes:
    """Its length, then it, so that no two lists of values look alike."""
    raw = str(value).encode()
    return len(raw).to_bytes(8, "big") + raw
