"""What the store needs of a place for large payloads. Every adapter passes the same suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

MAX_CHUNK = 1024 * 1024
"""Bytes, at most, in one chunk of an upload or a download."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes of a tenant. `digest` is their SHA-256 in hexadecimal, `size` their number.

    `written_at` is when they were uploaded last: the same bytes may be uploaded again.
    """

    tenant: str
    digest: str
    size: int
    written_at: datetime


class Blobs(Protocol):
    """Bytes by the digest of their content, apart for each tenant.

    Every call raises `Rejection`: NOT_FOUND, STORAGE_FULL, SERVICE_UNAVAILABLE or CORRUPT.
    """

    async def put(self, tenant: str, chunks: AsyncIterator[bytes]) -> Blob:
        """Keeps what `chunks` yields, once they end. An exception of theirs is raised on, and
        nothing is left behind. Bytes that are there already are kept once, and are young again."""
        ...

    async def find(self, tenant: str, digest: str) -> Blob:
        """What is known of a blob."""
        ...

    def read(self, blob: Blob, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes from `offset` on, in chunks of at most MAX_CHUNK. A whole blob is compared
        with its digest: CORRUPT comes in place of its end if it differs."""
        ...

    async def renew(self, blob: Blob) -> None:
        """Makes a blob young again, as an upload of the same bytes would."""
        ...

    async def remove(self, tenant: str, digest: str, older_than: timedelta = timedelta(0)) -> bool:
        """Forgets a blob, if it is there and that old; says whether. Whoever puts or renews it in
        this process at that moment comes before, and it is young, or after, and it is missing."""
        ...

    def everything(self) -> AsyncIterator[Blob]:
        """The blobs of all tenants, in no order."""
        ...

    async def sweep(self) -> int:
        """Removes what uploads left behind whose process died; says how many there were."""
        ...
