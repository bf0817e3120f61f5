"""All events of a tenant, in the order in which they were committed."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_conversation_store.domain.access import Caller
from agentmesh_conversation_store.storage.interface import FeedEvent

from .plan import Plan, fetch, fetch_each
from .reads import EVENT_COLUMNS, event_of
from .sharing import visible

# What was removed may still lie there for a while, and for longer if a fork shares it.
_AFTER = (
    f"SELECT feed_position, conversation_id, {EVENT_COLUMNS} FROM events e"
    " WHERE tenant = ? AND feed_position > ? AND EXISTS (SELECT 1 FROM conversations c"
    " WHERE c.tenant = e.tenant AND c.conversation_id = e.conversation_id"
    " AND c.oldest_sequence <= e.sequence AND {visible}) ORDER BY feed_position LIMIT ?"
)


def after(
    tenant: str, position: int, limit: int, max_bytes: int, caller: Caller
) -> Plan[Sequence[FeedEvent]]:
    """The next events that the caller may read, up to a size, at least one if there is one."""
    allowed = visible(caller)
    sql = _AFTER.format(visible=allowed.sql)
    rows = yield from fetch(sql, tenant, position, *allowed.arguments, limit)
    found: list[FeedEvent] = []
    size = 0
    for row in rows:
        event = FeedEvent(row[0], row[1], event_of(row[2:]))
        size += len(event.event.data)
        if found and size > max_bytes:
            break
        found.append(event)
    return found


def heads(tenants: Sequence[str]) -> Plan[dict[str, int]]:
    """How many events each tenant has had; those that had none are left out."""
    rows = yield from fetch_each(
        "SELECT tenant, position FROM tenant_feeds WHERE tenant = ?", [(t,) for t in tenants]
    )
    return {row[0]: row[1] for row in rows}
