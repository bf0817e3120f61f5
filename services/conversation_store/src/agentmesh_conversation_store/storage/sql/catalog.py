"""Definitions by kind, name and version."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.catalog import DocumentWrite, NewDocument, StoredDocument
from agentmesh_conversation_store.storage.requests import Request

from .plan import Alone, Plan, each, fetch, first, now
from .requests import once

_COLUMNS = "d.tenant, d.kind, d.name, d.version, d.digest, d.created_at, d.data"
_ADD = (
    "INSERT INTO documents (tenant, kind, name, version, digest, created_at, deleted, data)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_NEWEST = (
    "d.version = (SELECT max(version) FROM documents"
    " WHERE tenant = d.tenant AND kind = d.kind AND name = d.name)"
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
        newest, deleted = yield from _newest(tenant, document.kind, document.name)
        _check(document, newest if not deleted else None, write)
        unchanged = newest and not deleted and newest.digest == document.digest
        if newest and unchanged and write.only_changed:
            documents.append(newest)
        else:
            version = newest.version + 1 if newest else 1
            documents.append(_version(tenant, document, version, at))
            yield from each(_ADD, [_row(documents[-1])])
    return documents


def _check(document: NewDocument, newest: StoredDocument | None, write: DocumentWrite) -> None:
    if write.must_be_new and newest is not None:
        raise Rejection(
            Reason.ALREADY_EXISTS, f'"{document.name}" exists already', name=document.name
        )
    if write.etag and (newest is None or newest.etag != write.etag):
        raise Rejection(
            Reason.ETAG_MISMATCH,
            f'"{document.name}" changed since it was read',
            current_etag=newest.etag if newest else "",
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
    which = "d.version = ?" if version else f"d.deleted = 0 AND {_NEWEST}"
    row = yield from first(
        f"SELECT {_COLUMNS} FROM documents d"
        f" WHERE d.tenant IN (?, '') AND d.kind = ? AND d.name = ? AND {which}"
        " ORDER BY d.tenant DESC LIMIT 1",
        *((tenant, kind, name, version) if version else (tenant, kind, name)),
    )
    return StoredDocument(*row) if row else None


def listing(
    tenant: str, kind: int, names: Sequence[str], after: str, limit: int
) -> Plan[Sequence[StoredDocument]]:
    """Newest versions by name."""
    chosen = f" AND d.name IN ({', '.join('?' * len(names))})" if names else ""
    rows = yield from fetch(
        f"SELECT {_COLUMNS} FROM documents d"
        f" WHERE d.tenant IN (?, '') AND d.kind = ? AND d.name > ? AND d.deleted = 0"
        f" AND {_NEWEST}{chosen} ORDER BY d.name, d.tenant DESC LIMIT ?",
        tenant,
        kind,
        after,
        *names,
        2 * limit,
    )
    shown: dict[str, StoredDocument] = {}
    for row in rows:
        shown.setdefault(row[2], StoredDocument(*row))
    return list(shown.values())[:limit]


def delete(tenant: str, kind: int, name: str) -> Plan[bool]:
    """Hides the newest version of the tenant's own document."""
    yield Alone(f"documents:{tenant}")
    newest, deleted = yield from _newest(tenant, kind, name)
    if newest is None or deleted:
        return False
    yield from each(
        "UPDATE documents SET deleted = 1"
        " WHERE tenant = ? AND kind = ? AND name = ? AND version = ?",
        [(tenant, kind, name, newest.version)],
    )
    return True
