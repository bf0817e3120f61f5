"""The chain that audit records are sealed in: each seal covers a batch of one tenant's records and
the seal before it, under a key that the database does not have.

Whoever can write to the database can change, remove, insert, move and reorder rows. None of that
passes `Chain.check`. What a chain alone cannot show is that its newest seals were cut off: for
that, heads are kept elsewhere, see `Head`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from .ledger import AuditRecord
from .model import Instant

FIRST_HASH = bytes(32)
"""What stands in the first seal for the one before."""

_FORMAT = b"agentmesh audit seal 1"
_CUT_FORMAT = b"agentmesh audit cut 1"


@dataclass(frozen=True, slots=True)
class SealingKey:
    """What seals are signed with. `key_id` tells keys apart and gives nothing away."""

    secret: bytes

    @property
    def key_id(self) -> str:
        """Eight bytes of a digest, in hexadecimal digits."""
        return hmac.new(self.secret, b"agentmesh audit key id", hashlib.sha256).hexdigest()[:16]

    def sign(self, digest: bytes) -> bytes:
        """A signature of a digest."""
        return hmac.new(self.secret, digest, hashlib.sha256).digest()

    def signed(self, digest: bytes, signature: bytes) -> bool:
        """Whether this key made the signature."""
        return hmac.compare_digest(self.sign(digest), signature)


@dataclass(frozen=True, slots=True)
class Seal:
    """One batch of a tenant's records: those with first <= sequence <= last."""

    tenant: str
    number: int
    first_sequence: int
    last_sequence: int
    sealed_at: Instant
    previous: bytes
    hash: bytes
    signature: bytes
    key_id: str


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
    digest = _digest(tenant, number, first, last, at, previous, numbered)
    made = Seal(tenant, number, first, last, at, previous, digest, key.sign(digest), key.key_id)
    return made, numbered


def cut(tenant: str, through_sequence: int, at: Instant, key: SealingKey) -> Cut:
    """What says that records up to there were removed by retention."""
    return Cut(tenant, through_sequence, at, key.sign(_cut_digest(tenant, through_sequence, at)))


def is_genuine(cut: Cut, keys: Sequence[SealingKey]) -> bool:
    """Whether the store said so, under one of these keys."""
    digest = _cut_digest(cut.tenant, cut.through_sequence, cut.cut_at)
    return any(key.signed(digest, cut.signature) for key in keys)


class Chain:
    """Checks the seals of one tenant, in their order. `check` says what is broken, or nothing."""

    def __init__(self, tenant: str, keys: Sequence[SealingKey], cut_through: int = 0) -> None:
        self._tenant = tenant
        self._keys = {key.key_id: key for key in keys}
        self._cut_through = cut_through
        self.batches = 0
        self.records = 0
        self.removed = 0
        self.last_sequence = 0
        self._hash = FIRST_HASH

    @property
    def head(self) -> Head:
        """The seal that was checked last; number 0 before the first."""
        return Head(self._tenant, self.batches, self._hash.hex())

    def check(self, found: Seal, records: Sequence[AuditRecord]) -> str | None:
        """Checks the next seal with the records of its sequences, in their order."""
        problem = self._check_place(found) or self._check_records(found, records)
        if problem is None:
            self.batches += 1
            self.records += len(records)
            self.last_sequence = found.last_sequence
            self._hash = found.hash
        return problem

    def _check_place(self, found: Seal) -> str | None:
        expected = self.batches + 1
        if found.number != expected:
            return f"batch {expected} is missing"
        if found.tenant != self._tenant:
            return f"batch {expected} belongs to another tenant"
        if found.first_sequence != self.last_sequence + 1 or found.last_sequence < (
            found.first_sequence
        ):
            return f"batch {expected} does not begin where the one before ends"
        if found.previous != self._hash:
            return f"batch {expected} does not follow from the one before"
        key = self._keys.get(found.key_id)
        if key is None or not key.signed(found.hash, found.signature):
            return f"batch {expected} was sealed with another key ({found.key_id})"
        return None

    def _check_records(self, found: Seal, records: Sequence[AuditRecord]) -> str | None:
        if found.last_sequence <= self._cut_through and not records:
            self.removed += found.last_sequence - found.first_sequence + 1
            return None
        present = [record.sequence for record in records]
        for sequence in range(found.first_sequence, found.last_sequence + 1):
            if sequence not in present[sequence - found.first_sequence :][:1]:
                return f"record {sequence} of batch {found.number} is missing"
        if len(present) != found.last_sequence - found.first_sequence + 1:
            return f"batch {found.number} has a record too many"
        digest = _digest(
            found.tenant,
            found.number,
            found.first_sequence,
            found.last_sequence,
            found.sealed_at,
            found.previous,
            records,
        )
        if digest != found.hash:
            return f"batch {found.number} does not match its seal: a record was changed"
        return None


def _digest(
    tenant: str,
    number: int,
    first: int,
    last: int,
    at: Instant,
    previous: bytes,
    records: Sequence[AuditRecord],
) -> bytes:
    digest = hashlib.sha256(_FORMAT)
    for part in (tenant, number, first, last, at):
        digest.update(_framed(part))
    digest.update(previous)
    for record in records:
        fields = b"".join(_framed(part) for part in record.sealed_fields)
        digest.update(hashlib.sha256(fields).digest())
    return digest.digest()


def _cut_digest(tenant: str, through: int, at: Instant) -> bytes:
    parts = b"".join(_framed(part) for part in (tenant, through, at))
    return hashlib.sha256(_CUT_FORMAT + parts).digest()


def _framed(value: str | int) -> bytes:
    """Its length, then it, so that no two lists of values look alike."""
    raw = str(value).encode()
    return len(raw).to_bytes(8, "big") + raw
