"""API keys: how long they are good, and who may make which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meshkit.roles import Role, includes

from .model import Instant, Micros
from .rejections import Reason, Rejection


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secrets. `scopes` are those that it is limited to; none: it is not."""

    key_id: str
    tenant: str
    role: Role
    name: str
    created_at: Instant
    expires_at: Instant | None = None
    revoked_at: Instant | None = None
    scopes: tuple[str, ...] = ()
    created_by: str = ""
    last_used_at: Instant | None = None
    rotated_at: Instant | None = None
    previous_expires_at: Instant | None = None

    def usable_at(self, now: Instant) -> bool:
        """True if it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def state_at(self, now: Instant) -> str:
        """ "active", "revoked" or "expired"."""
        if self.usable_at(now):
            return "active"
        return "revoked" if self.revoked_at is not None else "expired"


@dataclass(frozen=True, slots=True)
class Grantor:
    """Who makes keys and gives them secrets: nobody can hand on more than they have."""

    subject: str
    role: int
    scopes: frozenset[str] | None = None

    def require(self, role: Role, scopes: Iterable[str]) -> None:
        """Rejects a key that could do what its maker cannot."""
        if not includes(self.role, role):
            raise Rejection(
                Reason.GRANT_TOO_WIDE,
                f"these credentials cannot make a key of the role {role.name.lower()}",
                role=role.name.lower(),
            )
        if self.scopes is None:
            return
        wanted = list(scopes)
        if not wanted:
            raise Rejection(
                Reason.GRANT_TOO_WIDE,
                "these credentials are limited to scopes, and so must be the keys that they make",
                scope="*",
            )
        for scope in wanted:
            if scope not in self.scopes:
                raise Rejection(
                    Reason.GRANT_TOO_WIDE,
                    f"these credentials have no scope {scope} to give",
                    scope=scope,
                )


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """A new secret for a key at `at`; the present one stays good until `previous_until`."""

    tenant: str
    key_id: str
    at: Instant
    overlap: Micros
    by: Grantor

    @property
    def previous_until(self) -> Instant:
        """When the present secret ends."""
        return self.at + self.overlap

    def check(self, key: ApiKey) -> None:
        """Rejects to rotate a key that is over, or that the caller could not have made."""
        self.by.require(key.role, key.scopes)
        if not key.usable_at(self.at):
            state = key.state_at(self.at)
            raise Rejection(
                Reason.ALREADY_ENDED, f"the key {key.key_id} is {state}: make another", status=state
            )


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key was used."""

    tenant: str
    key_id: str
    at: Instant
