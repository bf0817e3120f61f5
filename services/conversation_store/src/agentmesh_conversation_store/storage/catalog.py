"""Definitions and API keys: what a storage keeps beside conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agentmesh_conversation_store.domain.model import ApiKey, Instant

from .requests import Request


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A definition to write. `data` is opaque, `digest` that of its content."""

    kind: int
    name: str
    data: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """One version of a definition. An empty tenant is the system."""

    tenant: str
    kind: int
    name: str
    version: int
    digest: str
    created_at: Instant
    data: bytes

    @property
    def etag(self) -> str:
        """Changes with every version."""
        return f"{self.version}-{self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class DocumentWrite:
    """How to write documents. `only_changed` leaves out those that equal the newest version."""

    documents: Sequence[NewDocument] = field(default_factory=tuple)
    only_changed: bool = False
    must_be_new: bool = False
    etag: str = ""


class Catalog(Protocol):
    """The part of a storage that keeps them."""

    async def put_documents(
        self,
        tenant: str,
        write: DocumentWrite,
        request: Request[Sequence[StoredDocument]] | None = None,
    ) -> Sequence[StoredDocument] | bytes:
        """Writes new versions; bytes are the kept response of a repeated request."""
        ...

    async def document(
        self, tenant: str, kind: int, name: str, version: int
    ) -> StoredDocument | None:
        """One version, the newest if 0; the tenant's own hides the system's."""
        ...

    async def documents(
        self, tenant: str, kind: int, names: Sequence[str], after: str, limit: int
    ) -> Sequence[StoredDocument]:
        """Newest versions by name, after a name."""
        ...

    async def delete_document(self, tenant: str, kind: int, name: str) -> bool:
        """Hides a document; False if the tenant has none of that name."""
        ...

    async def add_key(
        self, key: ApiKey, secret_hash: bytes, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """Keeps a key; bytes are the kept response of a repeated request."""
        ...

    async def key_by_hash(self, secret_hash: bytes) -> ApiKey | None:
        """The key whose secret has this hash."""
        ...

    async def keys_exist(self) -> bool:
        """True if any tenant has a key, revoked ones included: revoking the last one must not make
        the mesh anonymous again."""
        ...

    async def keys(
        self, tenant: str, before: tuple[Instant, str] | None, limit: int
    ) -> Sequence[ApiKey]:
        """The tenant's keys, newest first."""
        ...

    async def revoke_key(self, tenant: str, key_id: str) -> ApiKey | None:
        """Makes a key useless; None if the tenant has no such key."""
        ...
