"""Lists of conversations, and search in what was said in them."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentmesh_conversation_store.domain.model import ConversationView
from agentmesh_conversation_store.domain.search import TextQuery
from agentmesh_conversation_store.storage.interface import ConversationQuery

from . import sharing
from .conditions import Condition, in_turn
from .plan import Plan, Row, Rows, fetch
from .reads import BESIDE, VIEW_COLUMNS, view_of
from .words import WordIndex

_TAKES_PART = (
    "EXISTS (SELECT 1 FROM conversation_agents a WHERE a.tenant = c.tenant"
    " AND a.conversation_id = c.conversation_id AND a.agent = ?)"
)
# What a fork shares was said in another log; what was removed of a log may still be shared.
_SAYS = """
WITH texts(log_id, sequence) AS ({found})
SELECT o.conversation_id FROM texts
    JOIN conversations o ON o.tenant = ? AND o.conversation_id = texts.log_id
    WHERE texts.sequence >= o.oldest_sequence
UNION ALL
SELECT s.conversation_id FROM texts
    JOIN shared_history s ON s.tenant = ? AND s.log_id = texts.log_id
    AND texts.sequence BETWEEN s.first_sequence AND s.last_sequence
"""
# The same of one conversation, by its own texts.
_FITS = (
    "(EXISTS (SELECT 1 FROM message_words m WHERE m.tenant = c.tenant"
    " AND m.conversation_id = c.conversation_id AND m.sequence >= c.oldest_sequence AND {fits})"
    " OR EXISTS (SELECT 1 FROM shared_history s CROSS JOIN message_words m"
    " WHERE s.tenant = c.tenant AND s.conversation_id = c.conversation_id AND m.tenant = s.tenant"
    " AND m.conversation_id = s.log_id AND m.sequence BETWEEN s.first_sequence AND s.last_sequence"
    " AND {fits}))"
)
_WHOLE = (VIEW_COLUMNS, BESIDE)
_PLACES = ("c.started_at, c.conversation_id", "")
_ANY = in_turn()
_NEWEST_FIRST = "ORDER BY c.started_at DESC, c.conversation_id DESC LIMIT ?"
# So many conversations are searched in one go.
_PORTION = 200


def conversations(
    tenant: str, query: ConversationQuery, words: WordIndex
) -> Plan[Sequence[ConversationView]]:
    """A page of conversations, newest first."""
    text = query.text
    if text is None:
        rows = yield from _readable(tenant, query)
    elif not text.wanted:
        rows = ()
    elif query.caller.sees_all:
        rows = yield from _found_by_index(tenant, query, text, words)
    else:
        rows = yield from _found_among_readable(tenant, query, text, words)
    return [view_of(row) for row in rows]


Selected = tuple[str, str]


def _page(wanted: Condition, limit: int, what: Selected = _WHOLE) -> Plan[Rows]:
    columns, beside = what
    return (
        yield from fetch(
            f"SELECT {columns} FROM conversations c{beside} WHERE {wanted.sql} {_NEWEST_FIRST}",
            *wanted.arguments,
            limit,
        )
    )


def _wanted(query: ConversationQuery) -> Condition:
    conditions: list[Condition] = []
    if query.statuses:
        marks = ", ".join("?" * len(query.statuses))
        statuses = tuple(int(status) for status in query.statuses)
        conditions.append(Condition(f"c.status IN ({marks})", statuses))
    if query.agent:
        conditions.append(Condition(_TAKES_PART, (query.agent,)))
    if query.started_after is not None:
        conditions.append(Condition("c.started_at >= ?", (query.started_after,)))
    if query.started_before is not None:
        conditions.append(Condition("c.started_at < ?", (query.started_before,)))
    if query.owner:
        # The second half lets the index of owners be used.
        conditions.append(Condition("c.owner = ? AND c.owner <> ''", (query.owner,)))
    return in_turn(*conditions)


def _readable(tenant: str, query: ConversationQuery, what: Selected = _WHOLE) -> Plan[Rows]:
    """A page of those that are wanted and that the caller may read, along an index."""
    wanted = _wanted(query)
    if query.caller.sees_all or query.owner == query.caller.subject != "":
        return (yield from _page(_of_tenant(tenant, query).and_also(wanted), query.limit, what))
    chosen = sharing.newest(tenant, query.caller, wanted, query.before, query.limit)
    return (yield from _chosen(tenant, chosen, query.limit, what))


def _chosen(
    tenant: str,
    chosen: Condition,
    limit: int,
    what: Selected = _WHOLE,
    further: Condition = _ANY,
) -> Plan[Rows]:
    """Those whose ids a query gives. SQLite keeps to the order of a CROSS JOIN; otherwise it would
    look at all conversations in the order that is asked for."""
    columns, beside = what
    return (
        yield from fetch(
            f"WITH chosen(name) AS MATERIALIZED ({chosen.sql})"
            f" SELECT {columns} FROM chosen CROSS JOIN conversations c{beside}"
            f" WHERE c.conversation_id = chosen.name AND c.tenant = ? AND {further.sql}"
            f" {_NEWEST_FIRST}",
            *chosen.arguments,
            tenant,
            *further.arguments,
            limit,
        )
    )


def _of_tenant(tenant: str, query: ConversationQuery) -> Condition:
    of_tenant = Condition("c.tenant = ?", (tenant,))
    if query.before is None:
        return of_tenant
    return of_tenant.and_also(Condition("(c.started_at, c.conversation_id) < (?, ?)", query.before))


def _found_by_index(
    tenant: str, query: ConversationQuery, text: TextQuery, words: WordIndex
) -> Plan[Rows]:
    """All texts of the tenant that fit are found first."""
    said = Condition(
        f"c.conversation_id IN ({_SAYS.format(found=words.found)})",
        (*words.arguments(tenant, text), tenant, tenant),
    )
    wanted = in_turn(_of_tenant(tenant, query), _wanted(query), said, sharing.visible(query.caller))
    return (yield from _page(wanted, query.limit))


def _found_among_readable(
    tenant: str, query: ConversationQuery, text: TextQuery, words: WordIndex
) -> Plan[Rows]:
    """What the caller may read is searched portion by portion, newest first, unless so little was
    said in the whole tenant that fits that all of it can be looked at."""
    found: list[Row] = []
    portion = replace(query, limit=_PORTION)
    while True:
        rows = yield from _readable(tenant, portion, _PLACES)
        places = [(started_at, name) for started_at, name in rows]
        if portion.before == query.before and len(places) == _PORTION:
            said = Condition(words.found, tuple(words.arguments(tenant, text)))
            if (yield from sharing.few(said)):
                return (yield from _found_by_index(tenant, query, text, words))
        if places:
            fits = words.fits(tenant, text)
            found += yield from _chosen(
                tenant,
                _named([name for _, name in places]),
                query.limit - len(found),
                further=Condition(_FITS.format(fits=fits.sql), fits.arguments * 2),
            )
        if len(places) < _PORTION or len(found) == query.limit:
            return found
        portion = replace(portion, before=places[-1])


def _named(names: list[str]) -> Condition:
    # As many places as ever, so that it is one statement to the database. No id is empty.
    names += [""] * (_PORTION - len(names))
    return Condition("VALUES " + ", ".join(["(CAST(? AS TEXT))"] * _PORTION), tuple(names))
