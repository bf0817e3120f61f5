"""API keys: made, hashed under a pepper, checked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from .domain.model import ApiKey, Instant, Micros, Role
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


class ApiKeys:
    """The keys of all tenants. Secrets are shown once and never stored."""

    def __init__(self, storage: Storage, pepper: bytes) -> None:
        self._storage = storage
        self._pepper = pepper

    def new_secret(self) -> str:
        """A secret of 256 random bits."""
        return _as_secret(secrets.token_bytes(_SECRET_BYTES))

    def secret_of_request(self, tenant: str, request_id: str) -> str:
        """The secret of a key made under a request id: a repetition gets the same one, and
        still nothing but its hash is stored."""
        text = f"api-key-of-request\0{tenant}\0{request_id}".encode()
        return _as_secret(hmac.new(self._pepper, text, hashlib.sha256).digest())

    async def create(
        self,
        tenant: str,
        key_id: str,
        role: Role,
        name: str,
        ttl: Micros | None,
        secret: str,
        request: Request[ApiKey] | None = None,
    ) -> ApiKey | bytes:
        """Keeps a key for `secret`; bytes are the kept response of a repeated request."""
        now = await self._storage.now()
        expires_at = None if ttl is None else now + ttl
        key = ApiKey(key_id, tenant, role, name, now, expires_at)
        return await self._storage.add_key(key, self._hash(secret), request)

    async def authenticate(self, secret: str) -> ApiKey:
        """The key behind a secret. CREDENTIALS_INVALID if it is unknown, revoked or expired."""
        key = await self._storage.key_by_hash(self._hash(secret))
        now: Instant = await self._storage.now()
        if key is None or not key.usable_at(now):
            raise Rejection(
                Reason.CREDENTIALS_INVALID, "the API key is unknown, revoked or expired"
            )
        return key

    def _hash(self, secret: str) -> bytes:
        return hmac.new(self._pepper, secret.encode(), hashlib.sha256).digest()


def _as_secret(raw: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")
