"""Definitions and API keys: what a storage keeps beside conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agentmesh_conversation_store.domain.keys import ApiKey, KeyRotation, KeyUse
from agentmesh_conversation_store.domain.model import Instant, Micros

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


@dataclass(frozen=True, slots=True)
class DocumentDeletion:
    """Which document to hide. `what` it is, in a word, goes into refusals."""

    kind: int
    name: str
    what: str
    etag: str = ""


@dataclass(frozen=True, slots=True)
class DocumentQuery:
    """Which documents: of one kind, with names after `after`. `names` and `system` restrict them
    further, unless empty or None."""

    kind: int
    names: Sequence[str] = ()
    after: str = ""
    system: bool | None = None


class Catalog(Protocol):
    """The part of a storage that keeps them."""

    async def put_documents(
        self,
        tenant: str,
        write: DocumentWrite,
        request: Request[Sequence[StoredDocument]] | None = None,
    ) -> Sequence[StoredDocument] | bytes:
        """Writes new versions; bytes are the kept response of a repeated request. An etag is that
        of the tenant's document, else of the system's."""
        ...

    async def document(
        self, tenant: str, kind: int, name: str, version: int
    ) -> StoredDocument | None:
        """One version, the newest if 0; the tenant's own hides the system's, unless deleted."""
        ...

    async def documents(
        self, tenant: str, query: DocumentQuery, limit: int
    ) -> Sequence[StoredDocument]:
        """Newest versions by name."""
        ...

    async def document_versions(
        self, tenant: str, kind: int, name: str, before: int, limit: int
    ) -> Sequence[StoredDocument]:
        """Versions below `before`, newest first, as `document` gives each of them."""
        ...

    async def delete_document(
        self, tenant: str, deletion: DocumentDeletion, request: Request[None] | None = None
    ) -> bytes | None:
        """Hides a document of the tenant; bytes are the kept response of a repeated request.
        Refused with NOT_FOUND, and with BUILT_IN if only the system has one."""
        ...

    async def add_key(
        self, key: ApiKey, secret_hash: bytes, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """Keeps a key; bytes are the kept response of a repeated request."""
        ...

    async def rotate_key(
        self, rotation: KeyRotation, secret_hash: bytes, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """Gives a key the secret with this hash; bytes are the kept response of a repeated request.
        Refused with NOT_FOUND, and as the rotation itself says."""
        ...

    async def usable_key(self, secret_hash: bytes) -> tuple[ApiKey, Instant] | None:
        """The key one of whose secrets has this hash, and the time at which both were good."""
        ...

    async def note_key_uses(self, uses: Sequence[KeyUse], apart: Micros) -> None:
        """Writes last uses that are at least `apart` later than those that are kept."""
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

    async def revoke_key(
        self, tenant: str, key_id: str, request: Request[ApiKey] | None = None
    ) -> ApiKey | bytes:
        """Makes a key useless; the first revocation's time stays. Bytes are the kept response of a
        repeated request. NOT_FOUND if there is no such key."""
        ...
