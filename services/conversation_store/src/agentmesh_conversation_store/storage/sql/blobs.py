"""Which events and which workspaces refer to which blobs."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_conversation_store.domain.model import BlobReference

from .plan import Plan, fetch, fetch_each
from .tables import BLOB_REFERENCES

_OF_CONVERSATION = (
    f"SELECT {BLOB_REFERENCES.select} FROM blob_references"
    " WHERE tenant = ? AND conversation_id = ? ORDER BY sequence, digest"
)
_REFERENCED = (
    "SELECT digest FROM (SELECT digest FROM blob_references WHERE tenant = ? AND digest = ?"
    " UNION ALL SELECT digest FROM workspace_blobs WHERE tenant = ? AND digest = ?) AS found"
    " LIMIT 1"
)
NAMED_BY_NOBODY = " AND ".join(
    f"NOT EXISTS (SELECT 1 FROM {table} u WHERE u.tenant = workspace_blobs.tenant"
    f" AND u.{column} = workspace_blobs.manifest AND u.{column} <> '')"
    for table, column in (
        ("conversations", "workspace_manifest"),
        ("conversations", "kept_manifest"),
        ("conversations", "before_manifest"),
        ("milestones", "workspace_manifest"),
    )
)
"""Of a row of workspace_blobs: its manifest is that of no state of any conversation, and of no
place in any log that a fork may begin at."""
FORGET_MANIFEST = (
    f"DELETE FROM workspace_blobs WHERE tenant = ? AND manifest = ? AND {NAMED_BY_NOBODY}"
)
_OF_MANIFEST = "SELECT digest FROM workspace_blobs WHERE tenant = ? AND manifest = ?"


def references(tenant: str, conversation_id: str) -> Plan[Sequence[BlobReference]]:
    """Those of one conversation."""
    rows = yield from fetch(_OF_CONVERSATION, tenant, conversation_id)
    return [BLOB_REFERENCES.value(row) for row in rows]


def referenced(tenant: str, digests: Sequence[str]) -> Plan[frozenset[str]]:
    """Which of these blobs anything refers to."""
    keys = [(tenant, digest, tenant, digest) for digest in digests]
    rows = yield from fetch_each(_REFERENCED, keys)
    return frozenset(digest for (digest,) in rows)


def of_manifest(tenant: str, manifest: str) -> Plan[frozenset[str]]:
    """What files of a manifest lie in; nothing if nobody names it."""
    rows = yield from fetch(_OF_MANIFEST, tenant, manifest)
    return frozenset(digest for (digest,) in rows)
