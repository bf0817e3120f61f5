"""Who may do what in which conversation, as conditions on rows.

`c` is a row of `conversations` wherever a condition stands.
"""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from agentmesh_conversation_store.domain.access import Access, Caller, Grant
from agentmesh_conversation_store.domain.model import Instant

from .conditions import Condition
from .plan import Plan, fetch, first
from .tables import CONVERSATIONS, GRANTS

T = TypeVar("T")

_HERE = "g.tenant = c.tenant AND g.conversation_id = c.conversation_id"
_STANDING = (
    f"SELECT {CONVERSATIONS.qualified('c')}, (SELECT max(g.access) FROM conversation_grants g"
    f" WHERE {_HERE} AND g.grantee IN ({{keys}})) FROM conversations c"
    " WHERE c.tenant = ? AND c.conversation_id = ?"
)
_GRANTS = (
    f"SELECT {GRANTS.select} FROM conversation_grants"
    " WHERE tenant = ? AND conversation_id = ? AND grantee > ? ORDER BY grantee LIMIT ?"
)


_OWN = "c.owner = ? AND c.owner <> ''"
_OPEN = Condition("c.visibility = 2")
_NAMES = "SELECT c.conversation_id FROM conversations c WHERE c.tenant = ? AND"
# Of so few rows each may be looked at, whoever may read it.
FEW = 500


def visible(caller: Caller) -> Condition:
    """Of those conversations that the caller may read."""
    if caller.sees_all:
        return Condition("1 = 1")
    keys = caller.grantees
    shared = (
        f"EXISTS (SELECT 1 FROM conversation_grants g WHERE {_HERE} AND g.grantee IN"
        f" ({_marks(keys)}))"
    )
    return Condition(
        f"({_OWN} OR {_OPEN.sql} OR {shared})", (caller.subject, *_OPEN.arguments, *keys)
    )


def readable(tenant: str, caller: Caller) -> Condition:
    """A query for the ids of all conversations that the caller may read, each once.

    It walks along the indexes of what is theirs, open or shared with them, so that it costs nothing
    that there are others.
    """
    keys = caller.grantees
    return Condition(
        f"{_NAMES} {_OWN} UNION {_NAMES} {_OPEN.sql} UNION"
        f" SELECT c.conversation_id FROM conversation_grants g JOIN conversations c ON {_HERE}"
        f" WHERE g.tenant = ? AND g.grantee IN ({_marks(keys)})",
        (tenant, caller.subject, tenant, *_OPEN.arguments, tenant, *keys),
    )


def few(rows: Condition) -> Plan[bool]:
    """True if a query has so few rows that it is no matter who may read them. It looks at no more
    than it takes to tell."""
    found = yield from first(
        f"SELECT count(*) FROM (SELECT 1 FROM ({rows.sql}) AS wanted LIMIT {FEW + 1}) AS counted",
        *rows.arguments,
    )
    return found is not None and found[0] <= FEW


def newest(
    tenant: str,
    caller: Caller,
    wanted: Condition,
    before: tuple[Instant, str] | None,
    limit: int,
) -> Condition:
    """A query for the ids of the newest so many conversations that the caller may read and that are
    wanted, and some more.

    Each way to be allowed is a walk along an index of its own, so that it does not matter how many
    conversations there are that the caller may not read.
    """
    own = Condition(_OWN, (caller.subject,))
    ways = [
        _walk(tenant, "c", "conversations c", way.and_also(wanted), before, limit)
        for way in (own, _OPEN)
    ]
    joined = f"conversation_grants g JOIN conversations c ON {_HERE}"
    for key in caller.grantees:
        way = Condition("g.grantee = ?", (key,)).and_also(wanted)
        ways.append(_walk(tenant, "g", joined, way, before, limit))
    return Condition(
        " UNION ".join(way.sql for way in ways),
        tuple(argument for way in ways for argument in way.arguments),
    )


def _walk(
    tenant: str,
    alias: str,
    rows: str,
    wanted: Condition,
    before: tuple[Instant, str] | None,
    limit: int,
) -> Condition:
    start = Condition(f"{alias}.tenant = ?", (tenant,))
    if before is not None:
        start = start.and_also(
            Condition(f"({alias}.started_at, {alias}.conversation_id) < (?, ?)", before)
        )
    where = start.and_also(wanted)
    return Condition(
        f"SELECT conversation_id FROM (SELECT {alias}.conversation_id AS conversation_id"
        f" FROM {rows} WHERE {where.sql}"
        f" ORDER BY {alias}.started_at DESC, {alias}.conversation_id DESC LIMIT ?) AS walked",
        (*where.arguments, limit),
    )


def access(tenant: str, conversation_id: str, caller: Caller) -> Plan[Access | None]:
    """What the caller may do; None if it does not exist for them."""
    keys = caller.grantees
    sql = _STANDING.format(keys=_marks(keys))
    row = yield from first(sql, *keys, tenant, conversation_id)
    if row is None:
        return None
    *columns, granted = row
    most = None if granted is None else Access(granted)
    return caller.may(CONVERSATIONS.value(columns), most)


def grants(tenant: str, conversation_id: str, after: str, limit: int) -> Plan[Sequence[Grant]]:
    """A page of grants."""
    rows = yield from fetch(_GRANTS, tenant, conversation_id, after, limit)
    return [GRANTS.value(row) for row in rows]


class SqlSharing(ABC):
    """`Sharing` over plans."""

    @abstractmethod
    async def _read(self, tenants: tuple[str, ...], plan: Plan[T], *, snapshot: bool = False) -> T:
        """Runs a plan that only reads; with `snapshot` all of it sees one point in time."""

    async def access(self, tenant: str, conversation_id: str, caller: Caller) -> Access | None:
        """See `Sharing`."""
        return await self._read((tenant,), access(tenant, conversation_id, caller))

    async def grants(
        self, tenant: str, conversation_id: str, after: str, limit: int
    ) -> Sequence[Grant]:
        """See `Sharing`."""
        return await self._read((tenant,), grants(tenant, conversation_id, after, limit))


def _marks(keys: Sequence[str]) -> str:
    return ", ".join("?" * len(keys)) or "NULL"
