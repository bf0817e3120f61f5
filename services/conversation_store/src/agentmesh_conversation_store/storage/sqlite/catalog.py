"""Definitions by kind, name and version."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.interface import (
    DocumentWrite,
    NewDocument,
    Request,
    StoredDocument,
)

from .unit import keep_response, kept_response
from .writer import Session

_COLUMNS = "d.tenant, d.kind, d.name, d.version, d.digest, d.created_at, d.data"
_NEWEST = (
    "d.version = (SELECT max(version) FROM documents"
    " WHERE tenant = d.tenant AND kind = d.kind AND name = d.name)"
)


def put(
    session: Session,
    tenant: str,
    write: DocumentWrite,
    request: Request[Sequence[StoredDocument]] | None,
) -> Sequence[StoredDocument] | bytes:
    """Writes new versions, all or none."""
    if request is None:
        return _put_all(session, tenant, write)
    kept = kept_response(session, request)
    if kept is not None:
        return kept
    return keep_response(session, request, _put_all(session, tenant, write))


def _put_all(session: Session, tenant: str, write: DocumentWrite) -> list[StoredDocument]:
    present = [_newest(session.connection, tenant, d.kind, d.name) for d in write.documents]
    for document, (newest, deleted) in zip(write.documents, present, strict=True):
        _check(document, newest if not deleted else None, write)
    return [
        newest
        if write.only_changed and newest and not deleted and newest.digest == document.digest
        else _add(session, tenant, document, newest.version + 1 if newest else 1)
        for document, (newest, deleted) in zip(write.documents, present, strict=True)
    ]


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


def _newest(
    db: sqlite3.Connection, tenant: str, kind: int, name: str
) -> tuple[StoredDocument | None, bool]:
    row = db.execute(
        f"SELECT {_COLUMNS}, d.deleted FROM documents d"
        " WHERE d.tenant = ? AND d.kind = ? AND d.name = ? ORDER BY d.version DESC LIMIT 1",
        (tenant, kind, name),
    ).fetchone()
    return (StoredDocument(*row[:-1]), bool(row[-1])) if row else (None, False)


def _add(session: Session, tenant: str, document: NewDocument, version: int) -> StoredDocument:
    session.connection.execute(
        "INSERT INTO documents (tenant, kind, name, version, digest, created_at, deleted, data)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        (
            tenant,
            document.kind,
            document.name,
            version,
            document.digest,
            session.now,
            document.data,
        ),
    )
    return StoredDocument(
        tenant,
        document.kind,
        document.name,
        version,
        document.digest,
        session.now,
        document.data,
    )


def get(
    db: sqlite3.Connection, tenant: str, kind: int, name: str, version: int
) -> StoredDocument | None:
    """One version; the tenant's own hides the system's of the same name."""
    which = "d.version = ?" if version else f"d.deleted = 0 AND {_NEWEST}"
    row = db.execute(
        f"SELECT {_COLUMNS} FROM documents d"
        f" WHERE d.tenant IN (?, '') AND d.kind = ? AND d.name = ? AND {which}"
        " ORDER BY d.tenant DESC LIMIT 1",
        (tenant, kind, name, version) if version else (tenant, kind, name),
    ).fetchone()
    return StoredDocument(*row) if row else None


def listing(
    db: sqlite3.Connection, tenant: str, kind: int, names: Sequence[str], after: str, limit: int
) -> list[StoredDocument]:
    """Newest versions by name."""
    chosen = f" AND d.name IN ({', '.join('?' * len(names))})" if names else ""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM documents d"
        f" WHERE d.tenant IN (?, '') AND d.kind = ? AND d.name > ? AND d.deleted = 0"
        f" AND {_NEWEST}{chosen} ORDER BY d.name, d.tenant DESC LIMIT ?",
        (tenant, kind, after, *names, 2 * limit),
    )
    shown: dict[str, StoredDocument] = {}
    for row in rows:
        shown.setdefault(row[2], StoredDocument(*row))
    return list(shown.values())[:limit]


def delete(session: Session, tenant: str, kind: int, name: str) -> bool:
    """Hides the newest version of the tenant's own document."""
    newest, deleted = _newest(session.connection, tenant, kind, name)
    if newest is None or deleted:
        return False
    session.connection.execute(
        "UPDATE documents SET deleted = 1"
        " WHERE tenant = ? AND kind = ? AND name = ? AND version = ?",
        (tenant, kind, name, newest.version),
    )
    return True
