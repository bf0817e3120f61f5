"""API keys: made, hashed under a pepper, checked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshkit.ids import new_id
from meshkit.roles import Role

from .domain.keys import ApiKey, Grantor, KeyRotation
from .domain.model import Instant, Micros
from .domain.rejections import Reason, Rejection
from .settings import StoreSettings
from .storage.interface import Storage
from .storage.requests import Request

PREFIX = "amk_"
PEPPER_FILE = "api_key_pepper"
_SECRET_BYTES = 32


def load_pepper(settings: StoreSettings) -> bytes:
    """API_KEY_SECRET; else a random one that is made once and kept in the data folder."""
    if settings.api_key_secret is not None:
        return settings.api_key_secret.get_secret_value().encode()
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = settings.data_dir / PEPPER_FILE
    _create_pepper(path)
    return bytes.fromhex(path.read_text("ascii").strip())


def _create_pepper(path: Path) -> None:
    """Linked into place when complete, so that of two that start at once one wins whole."""
    if path.exists():
        return
    draft = path.with_name(f".{PEPPER_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(_SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to make: it ends after `ttl`, and is limited to `scopes` if there are any."""

    tenant: str
    role: Role
    name: str = ""
    ttl: Micros | None = None
    scopes: tuple[str, ...] = ()


class ApiKeys:
    """The keys of all tenants. Secrets are shown once and never stored.

    A secret comes of the pepper, of what it is for, and of a `seed`: random bits, or the id of the
    request that asked for it, so that a repetition gets the same one.
    """

    def __init__(
        self,
        storage: Storage,
        pepper: bytes,
        used: Callable[[ApiKey, Instant], None] = lambda key, at: None,
    ) -> None:
        self._storage = storage
        self._pepper = pepper
        self._used = used

    def secret(self, tenant: str, key_id: str, issued_at: Instant, seed: str) -> str:
        """The secret that a key got at `issued_at`."""
        text = "\0".join(("api-key-secret", tenant, key_id, str(issued_at), seed)).encode()
        raw = hmac.new(self._pepper, text, hashlib.sha256).digest()
        return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")

    async def create(
        self, wanted: NewKey, by: Grantor, seed: str, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """Makes a key; bytes are the kept response of a repeated request. GRANT_TOO_WIDE if it
        could do more than who asks for it."""
        by.require(wanted.role, wanted.scopes)
        now = await self._storage.now()
        key = ApiKey(
            new_id("key"),
            wanted.tenant,
            wanted.role,
            wanted.name,
            now,
            None if wanted.ttl is None else now + wanted.ttl,
            scopes=wanted.scopes,
            created_by=by.subject,
        )
        secret = self.secret(wanted.tenant, key.key_id, now, seed)
        return await self._storage.add_key(key, self._hash(secret), request)

    async def rotate(
        self,
        tenant: str,
        key_id: str,
        overlap: Micros,
        by: Grantor,
        seed: str,
        request: Request[ApiKey] | None = None,
    ) -> ApiKey | bytes:
        """Gives a key a new secret; bytes are the kept response of a repeated request."""
        now = await self._storage.now()
        secret = self.secret(tenant, key_id, now, seed)
        rotation = KeyRotation(tenant, key_id, now, overlap, by)
        return await self._storage.rotate_key(rotation, self._hash(secret), request)

    async def authenticate(self, secret: str) -> ApiKey:
        """The key behind a secret. CREDENTIALS_INVALID if it is unknown, revoked or expired."""
        found = await self._storage.usable_key(self._hash(secret))
        if found is None:
            raise Rejection(
                Reason.CREDENTIALS_INVALID, "the API key is unknown, revoked or expired"
            )
        key, now = found
        self._used(key, now)
        return key

    def _hash(self, secret: str) -> bytes:
        return hmac.new(self._pepper, secret.encode(), hashlib.sha256).digest()


def random_seed() -> str:
    """256 random bits."""
    return secrets.token_hex(_SECRET_BYTES)
