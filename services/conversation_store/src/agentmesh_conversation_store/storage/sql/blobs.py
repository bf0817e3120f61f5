"""Which events refer to which blobs."""

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
_REFERENCED = "SELECT digest FROM blob_references WHERE tenant = ? AND digest = ? LIMIT 1"


def references(tenant: str, conversation_id: str) -> Plan[Sequence[BlobReference]]:
    """Those of one conversation."""
    rows = yield from fetch(_OF_CONVERSATION, tenant, conversation_id)
    return [BLOB_REFERENCES.value(row) for row in rows]


def referenced(tenant: str, digests: Sequence[str]) -> Plan[frozenset[str]]:
    """Which of these blobs anything refers to."""
    rows = yield from fetch_each(_REFERENCED, [(tenant, digest) for digest in digests])
    return frozenset(digest for (digest,) in rows)
