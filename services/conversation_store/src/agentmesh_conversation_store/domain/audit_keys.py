"""The keys of the audit log: what seals are signed with, and what each record is marked with by the
process that writes it. None of them is ever in the database.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from .ledger import AuditRecord
from .model import SECOND, Instant

_MAC_PURPOSE = b"agentmesh audit record 1"
_MAC_BYTES = 16
_CUT_OVER_PURPOSE = b"agentmesh audit cut-over 1"

CUT_OVER = 3600 * SECOND
"""How long after the upgrade of a database records without a mark are taken: those that stood there
unsealed, and those of replicas of the earlier release that are still at work."""


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
        """Whether this key made the signature; a value of another type it never did."""
        return isinstance(signature, bytes) and hmac.compare_digest(self.sign(digest), signature)


@dataclass(frozen=True, slots=True)
class CutOver:
    """When a database was upgraded to records with marks: until `through` those without pass."""

    tenant: str
    through: Instant
    signature: bytes


class AuditKeys:
    """The keys that are good, of which the first one signs and marks."""

    def __init__(self, keys: Sequence[SealingKey]) -> None:
        self.all = tuple(keys)
        self.first = keys[0]
        self._by_id = {key.key_id: key for key in reversed(keys)}
        # Derived once: a record is marked on the way of every call that changes something.
        self._marking = {
            bytes.fromhex(key_id): key.sign(_MAC_PURPOSE) for key_id, key in self._by_id.items()
        }
        self._first_id = bytes.fromhex(self.first.key_id)

    @classmethod
    def random(cls) -> AuditKeys:
        """Good for as long as the process lives."""
        return cls([SealingKey(secrets.token_bytes(32))])

    def find(self, key_id: str) -> SealingKey | None:
        """The key of that id, if it is one of these."""
        return self._by_id.get(key_id)

    def mac(self, record: AuditRecord) -> bytes:
        """What marks a record as written by a process that has the key: eight bytes of the key's
        id, and a keyed digest over everything but its place."""
        return self._first_id + _mac(self._marking[self._first_id], record)

    def marked(self, record: AuditRecord) -> bool:
        """Whether a process with one of the keys wrote this record as it is."""
        key_id, mac = record.mac[:8], record.mac[8:]
        secret = self._marking.get(key_id)
        return secret is not None and hmac.compare_digest(_mac(secret, record), mac)

    def cut_over(self, at: Instant) -> Sequence[CutOver]:
        """Says that the database was upgraded at that time. Each key says so, for the first one may
        be given up again; each a microsecond earlier, since there is one place for each time."""
        throughs = (at + CUT_OVER - number for number in range(len(self.all)))
        return [
            CutOver("", through, key.sign(_cut_over_digest(through)))
            for through, key in zip(throughs, self.all, strict=True)
        ]

    def through_cut_over(self, said: Sequence[CutOver]) -> Instant:
        """Until when records without a mark pass; 0: they never do. What no key signed is void."""
        return max(
            (
                one.through
                for one in said
                if any(key.signed(_cut_over_digest(one.through), one.signature) for key in self.all)
            ),
            default=0,
        )


def _mac(secret: bytes, record: AuditRecord) -> bytes:
    return hashlib.blake2b(record.marked_bytes, key=secret, digest_size=_MAC_BYTES).digest()


def _cut_over_digest(through: Instant) -> bytes:
    return hashlib.sha256(_CUT_OVER_PURPOSE + str(through).encode()).digest()
