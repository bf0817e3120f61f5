"""Definitions by kind, name and version."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.domain.rejections import Reason, Rejection, not_found
from agentmesh_conversation_store.storage.catalog import (
    DocumentDeletion,
    DocumentQuery,
    DocumentWrite,
    NewDocument,
    StoredDocument,
)
from agentmesh_conversation_store.storage.requests import Request

from .plan import Alone, Plan, each, fetch, first, now
from .requests import once

_COLUMNS = "d.tenant, d.kind, d.name, d.version, d.digest, d.created_at, d.data"
_ADD = (
    "INSERT INTO documents (tenant, kind, name, version, digest, created_at, deleted, data)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_SAME_NAME = "tenant = d.tenant AND kind = d.kind AND name = d.name"
_NEWEST = f"d.version = (SELECT max(version) FROM documents WHERE {_SAME_NAME})"
# Deletion marks the newest version and means all of them, until there is a newer one.
_PRESENT = (
    "NOT EXISTS (SELECT 1 FROM documents WHERE deleted = 1 AND version ="
    f" (SELECT max(version) FROM documents WHERE {_SAME_NAME}) AND {_SAME_NAME})"
)
_HIDDEN = (
    "EXISTS (SELECT 1 FROM documents o WHERE o.tenant = ? AND o.kind = d.kind"
    " AND o.name = d.name AND o.deleted = 0 AND o.version = (SELECT max(version) FROM documents"
    " WHERE tenant = o.tenant AND kind = o.kind AND name = o.name))"
)


def put(
    tenant: str, write: DocumentWrite, request: Request[Sequence[StoredDocument]] | None
) -> Plan[Sequence[StoredDocument] | bytes]:
    """Writes new versions, all or none."""
    return (yield from once(request, lambda: _put_all(tenant, write)))


def _put_all(tenant: str, write: DocumentWrite) -> Plan[Sequence[StoredDocument]]:
    # Two writers of one tenant must not give the same version twice.
    yield Alone(f"documents:{tenant}")
    at = yield from now()
    documents = []
    for document in write.documents:
        there = yield from _standing(tenant, document.kind, document.name)
        own = there.present
        _check(document, there, write)
        if own and own.digest == document.digest and write.only_changed:
            documents.append(own)
        else:
            documents.append(_version(tenant, document, there.last_version + 1, at))
            yield from each(_ADD, [_row(documents[-1])])
    return documents


@dataclass(frozen=True, slots=True)
class _Standing:
    """The newest versions of one name: the tenant's, which may be deleted, and the system's."""

    own: StoredDocument | None
    deleted: bool
    system: StoredDocument | None

    @property
    def present(self) -> StoredDocument | None:
        """The tenant's own."""
        return None if self.deleted else self.own

    @property
    def seen(self) -> StoredDocument | None:
        """What the tenant is given under this name."""
        return self.present or self.system

    @property
    def last_version(self) -> int:
        """The highest number that was given to any of them."""
        return max(document.version if document else 0 for document in (self.own, self.system))


def _standing(tenant: str, kind: int, name: str) -> Plan[_Standing]:
    own, deleted = yield from _newest(tenant, kind, name)
    system, _ = (own, False) if tenant == "" else (yield from _newest("", kind, name))
    return _Standing(own, deleted, system)


def _check(document: NewDocument, there: _Standing, write: DocumentWrite) -> None:
    if write.must_be_new and there.present is not None:
        raise Rejection(
            Reason.ALREADY_EXISTS, f'"{document.name}" exists already', name=document.name
        )
    _compare(document.name, there.seen, write.etag)


def _compare(name: str, seen: StoredDocument | None, etag: str) -> None:
    if etag and (seen is None or seen.etag != etag):
        raise Rejection(
            Reason.ETAG_MISMATCH,
            f'"{name}" changed since it was read',
            current_etag=seen.etag if seen else "",
        )


def _newest(tenant: str, kind: int, name: str) -> Plan[tuple[StoredDocument | None, bool]]:
    row = yield from first(
        f"SELECT {_COLUMNS}, d.deleted FROM documents d"
        " WHERE d.tenant = ? AND d.kind = ? AND d.name = ? ORDER BY d.version DESC LIMIT 1",
        tenant,
        kind,
        name,
    )
    return (StoredDocument(*row[:-1]), bool(row[-1])) if row else (None, False)


def _version(tenant: str, document: NewDocument, version: int, at: Instant) -> StoredDocument:
    return StoredDocument(
        tenant, document.kind, document.name, version, document.digest, at, document.data
    )


def _row(document: StoredDocument) -> tuple[object, ...]:
    return (
        document.tenant,
        document.kind,
        document.name,
        document.version,
        document.digest,
        document.created_at,
        0,
        document.data,
    )


def get(tenant: str, kind: int, name: str, version: int) -> Plan[StoredDocument | None]:
    """One version; the tenant's own hides the system's of the same name."""
    which = f"d.version = ? AND {_PRESENT}" if version else f"d.deleted = 0 AND {_NEWEST}"
    row = yield from first(
        f"SELECT {_COLUMNS} FROM documents d"
        f" WHERE d.tenant IN (?, '') AND d.kind = ? AND d.name = ? AND {which}"
        " ORDER BY d.tenant DESC LIMIT 1",
        *((tenant, kind, name, version) if version else (tenant, kind, name)),
    )
    return StoredDocument(*row) if row else None


def listing(tenant: str, query: DocumentQuery, limit: int) -> Plan[Sequence[StoredDocument]]:
    """Newest versions by name."""
    chosen, arguments = "", list[str]()
    if query.names:
        chosen += f" AND d.name IN ({', '.join('?' * len(query.names))})"
        arguments += query.names
    if query.system is not None:
        chosen += " AND d.tenant = ''" if query.system else " AND d.tenant <> ''"
    if query.system:
        chosen += f" AND NOT {_HIDDEN}"
        arguments.append(tenant)
    rows = yield from fetch(
        f"SELECT {_COLUMNS} FROM documents d"
        f" WHERE d.tenant IN (?, '') AND d.kind = ? AND d.name > ? AND d.deleted = 0"
        f" AND {_NEWEST}{chosen} ORDER BY d.name, d.tenant DESC LIMIT ?",
        tenant,
        query.kind,
        query.after,
        *arguments,
        2 * limit,
    )
    shown: dict[str, StoredDocument] = {}
    for row in rows:
        shown.setdefault(row[2], StoredDocument(*row))
    return list(shown.values())[:limit]


def versions(
    tenant: str, kind: int, name: str, before: int, limit: int
) -> Plan[Sequence[StoredDocument]]:
    """Versions of one name, newest first; of two with one number the tenant's own."""
    rows = yield from fetch(
        f"SELECT {_COLUMNS} FROM documents d"
        f" WHERE d.tenant IN (?, '') AND d.kind = ? AND d.name = ? AND d.version < ?"
        f" AND {_PRESENT} ORDER BY d.version DESC, d.tenant DESC LIMIT ?",
        tenant,
        kind,
        name,
        before,
        2 * limit,
    )
    shown: dict[int, StoredDocument] = {}
    for row in rows:
        shown.setdefault(row[3], StoredDocument(*row))
    return list(shown.values())[:limit]


def delete(
    tenant: str, deletion: DocumentDeletion, request: Request[None] | None
) -> Plan[bytes | None]:
    """Hides the newest version of the tenant's own document."""
    return (yield from once(request, lambda: _delete(tenant, deletion)))


def _delete(tenant: str, deletion: DocumentDeletion) -> Plan[None]:
    yield Alone(f"documents:{tenant}")
    name = deletion.name
    there = yield from _standing(tenant, deletion.kind, name)
    if there.seen is None:
        raise not_found(deletion.what, name)
    _compare(name, there.seen, deletion.etag)
    if there.present is None:
        raise Rejection(
            Reason.BUILT_IN,
            f'{deletion.what} "{name}" is shipped with the mesh and cannot be deleted',
            name=name,
        )
    yield from each(
        "UPDATE documents SET deleted = 1"
        " WHERE tenant = ? AND kind = ? AND name = ? AND version = ?",
        [(tenant, deletion.kind, name, there.present.version)],
    )
