"""All events of a tenant, in the order in which they were committed."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence

from agentmesh_conversation_store.domain.access import Caller
from agentmesh_conversation_store.storage.interface import FeedEvent, FeedPage

from .plan import Plan, fetch, fetch_each
from .reads import EVENT_COLUMNS, event_of
from .sharing import visible

# What was removed may still lie there for a while, and for longer if a fork shares it.
_BETWEEN = (
    f"SELECT feed_position, conversation_id, {EVENT_COLUMNS} FROM events e"
    " WHERE tenant = ? AND feed_position > ? AND feed_position <= ? AND EXISTS"
    " (SELECT 1 FROM conversations c"
    " WHERE c.tenant = e.tenant AND c.conversation_id = e.conversation_id"
    " AND c.oldest_sequence <= e.sequence AND {visible}) ORDER BY feed_position LIMIT ?"
)
_HEAD = "SELECT tenant, position FROM tenant_feeds WHERE tenant = ?"
# As many events are looked at in one go, whoever may read them.
_STRETCH = 2000


def after(tenant: str, position: int, limit: int, max_bytes: int, caller: Caller) -> Plan[FeedPage]:
    """The next events that the caller may read, up to a size, of a stretch of the feed."""
    # Read before the events are: what has a position up to there has been committed with it.
    head = (yield from heads([tenant])).get(tenant, 0)
    end = min(head, position + _STRETCH)
    allowed = visible(caller)
    sql = _BETWEEN.format(visible=allowed.sql)
    rows = yield from fetch(sql, tenant, position, end, *allowed.arguments, limit)
    found: list[FeedEvent] = []
    size = 0
    for row in rows:
        event = FeedEvent(row[0], row[1], event_of(row[2:]))
        size += len(event.event.data)
        if found and size > max_bytes:
            break
        found.append(event)
    if len(found) < len(rows) or len(rows) == limit:
        end = found[-1].position
    return FeedPage(found, max(position, end), head)


def heads(tenants: Sequence[str]) -> Plan[dict[str, int]]:
    """How many events each tenant has had; those that had none are left out."""
    rows = yield from fetch_each(_HEAD, [(t,) for t in tenants])
    return {row[0]: row[1] for row in rows}
